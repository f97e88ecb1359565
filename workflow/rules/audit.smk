# READS   results/samples/, results/folds/
# WRITES  results/audit/{experiment}.parquet  what every two sections have in common; stops where one is on both sides


rule audit_sections:
    input:
        samples=get("audit_samples", "experiment"),
        genes=get("audit_genes", "experiment"),
        folds="results/folds/{experiment}.parquet",
    output:
        table="results/audit/{experiment}.parquet",
        figure=report(
            "results/figures/{experiment}/content.png",
            caption="../report/audit.rst",
            category="6. Leaks",
            labels={"experiment": "{experiment}", "what": "content guard"},
        ),
    log:
        "logs/audit/audit_sections/{experiment}.log",
    benchmark:
        "benchmarks/audit/audit_sections/{experiment}.tsv"
    wildcard_constraints:
        experiment=f"{TRAINED}|{PROBES}",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("audit_sections"),
        runtime=get_runtime("audit_sections"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="audit"),
        code=code_of("audit"),
    script:
        "../../scripts/audit_sections.py"
