# READS   results/metrics/, results/efficiency/, resources/published/
# WRITES  results/tables/  of a paper, and the sections that are left out


rule write_paper_table:
    input:
        unpack(inputs(PLAN.report.paper_results)),
        published=inputs(PLAN.report.published_table),
    output:
        csv=paths.fill(paths.PAPER_TABLE, ending="csv"),
        md=paths.fill(paths.PAPER_TABLE, ending="md"),
        html=report(
            paths.fill(paths.PAPER_TABLE, ending="html"),
            caption="../report/paper_table.rst",
            category=chapter("Next to the papers"),
            labels={"paper": "{paper}", "what": "table {number}"},
        ),
    log:
        "logs/report/write_paper_table/{paper}.table{number}.log",
    benchmark:
        "benchmarks/report/write_paper_table/{paper}.table{number}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    params:
        spec=spec(PLAN.report.paper_spec),
        code=code_of("report"),
    script:
        "../../scripts/write_paper_table.py"


rule list_exclusions:
    output:
        csv=report(
            PLAN.report.own(paths.EXCLUSIONS),
            caption="../report/exclusions.rst",
            category=chapter("What was measured"),
            labels={"cohort": "all", "section": "excluded sections"},
        ),
    log:
        "logs/report/list_exclusions/list_exclusions.log",
    benchmark:
        "benchmarks/report/list_exclusions/list_exclusions.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    params:
        rows=canonical_json(PLAN.sections.excluded()),
        code=code_of("report"),
    script:
        "../../scripts/list_exclusions.py"
