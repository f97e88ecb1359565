# READS   results/metrics/, results/efficiency/, resources/published/
# WRITES  results/tables/  of a paper, and the sections that are left out


rule write_probe_table:
    input:
        unpack(get("experiment_results", "experiment")),
    output:
        csv="results/tables/{experiment}/probe.csv",
        md="results/tables/{experiment}/probe.md",
        html=report(
            "results/tables/{experiment}/probe.html",
            caption="../report/probe.rst",
            category="4. Against what",
            labels={"experiment": "{experiment}", "what": "probes of encoders"},
        ),
        figure=report(
            "results/figures/{experiment}/probe.png",
            caption="../report/probe.rst",
            category="4. Against what",
            labels={"experiment": "{experiment}", "what": "probes by fold"},
        ),
    log:
        "logs/report/write_probe_table/{experiment}.log",
    benchmark:
        "benchmarks/report/write_probe_table/{experiment}.tsv"
    wildcard_constraints:
        experiment=PROBES,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("write_probe_table"),
        runtime=get_runtime("write_probe_table"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="all"),
        code=code_of("report"),
    script:
        "../../scripts/write_probe_table.py"


rule write_paper_table:
    input:
        unpack(get("paper_results", "paper")),
        published=get("published_table", "paper", "number"),
    output:
        csv="results/tables/{paper}/table{number}.csv",
        md="results/tables/{paper}/table{number}.md",
        html=report(
            "results/tables/{paper}/table{number}.html",
            caption="../report/paper_table.rst",
            category="8. Next to the papers",
            labels={"paper": "{paper}", "what": "table {number}"},
        ),
    log:
        "logs/report/write_paper_table/{paper}.table{number}.log",
    benchmark:
        "benchmarks/report/write_paper_table/{paper}.table{number}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("write_paper_table"),
        runtime=get_runtime("write_paper_table"),
    params:
        spec=get_spec("paper_spec", "paper"),
        code=code_of("report"),
    script:
        "../../scripts/write_paper_table.py"


rule list_exclusions:
    output:
        csv=report(
            "results/tables/exclusions.csv",
            caption="../report/exclusions.rst",
            category="1. What was measured",
            labels={"cohort": "all", "section": "excluded sections"},
        ),
    log:
        "logs/report/list_exclusions/list_exclusions.log",
    benchmark:
        "benchmarks/report/list_exclusions/list_exclusions.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("list_exclusions"),
        runtime=get_runtime("list_exclusions"),
    params:
        rows=get_exclusions(),
        code=code_of("report"),
    script:
        "../../scripts/list_exclusions.py"
