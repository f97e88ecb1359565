# READS   results/samples/, results/folds/
# WRITES  results/audit/{experiment}.parquet  what every two sections have in common; stops where one is on both sides


rule audit_sections:
    input:
        samples=inputs(PLAN.experiments.sample_files),
        genes=inputs(PLAN.experiments.audit_genes),
        folds=paths.FOLDS,
    output:
        table=paths.AUDIT,
        figure=report(
            paths.CONTENT_FIGURE,
            caption="../report/audit.rst",
            category=chapter("Leakage"),
            labels={"experiment": "{experiment}", "what": "content guard"},
        ),
    log:
        "logs/audit/audit_sections/{experiment}.log",
    benchmark:
        "benchmarks/audit/audit_sections/{experiment}.tsv"
    wildcard_constraints:
        experiment=TRAINED,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["audit_sections"]),
        runtime=runtime(NEEDS["audit_sections"]),
    params:
        spec=spec(PLAN.experiments.spec, part="audit"),
        code=code_of("audit"),
    script:
        "../../scripts/audit_sections.py"
