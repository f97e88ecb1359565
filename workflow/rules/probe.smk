# READS   results/targets/, results/folds/, results/embeddings/, results/audit/
# WRITES  results/targets/{experiment}/panel.parquet           the genes that each fold is scored on;
#         results/predictions/{experiment}/{model}/{variant}.h5ad  of a probe: model = encoder, variant = choice of alpha;
#         results/metrics/{experiment}/{model}.parquet


rule select_panel:
    input:
        target="results/targets/{experiment}/target.h5ad",
        folds="results/folds/{experiment}.parquet",
    output:
        panel="results/targets/{experiment}/panel.parquet",
    log:
        "logs/probe/select_panel/{experiment}.log",
    benchmark:
        "benchmarks/probe/select_panel/{experiment}.tsv"
    wildcard_constraints:
        experiment=PROBES,
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("select_panel"),
        runtime=get_runtime("select_panel"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="panel"),
        code=code_of("panel"),
    script:
        "../../scripts/select_panel.py"


rule run_probe:
    input:
        unpack(get("probe_embeddings", "experiment", "model")),
        target="results/targets/{experiment}/target.h5ad",
        folds="results/folds/{experiment}.parquet",
        panel="results/targets/{experiment}/panel.parquet",
        # Nothing is fitted before the content guard has passed; a new look at the sections refits nothing.
        audit=ancient(get("audit_file", "experiment")),
    output:
        predictions="results/predictions/{experiment}/{model}/{variant}.h5ad",
    log:
        "logs/probe/run_probe/{experiment}/{model}/{variant}.log",
    benchmark:
        "benchmarks/probe/run_probe/{experiment}/{model}/{variant}.tsv"
    wildcard_constraints:
        experiment=PROBES,
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("run_probe"),
        runtime=get_runtime("run_probe"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="probe"),
        code=code_of("probe"),
    script:
        "../../scripts/run_probe.py"


rule score_probe:
    input:
        predictions=get("probe_predictions", "experiment", "model"),
        target="results/targets/{experiment}/target.h5ad",
    output:
        metrics="results/metrics/{experiment}/{model}.parquet",
    log:
        "logs/probe/score_probe/{experiment}/{model}.log",
    benchmark:
        "benchmarks/probe/score_probe/{experiment}/{model}.tsv"
    wildcard_constraints:
        experiment=PROBES,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("score_probe"),
        runtime=get_runtime("score_probe"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="scoring"),
        code=code_of("metrics"),
    script:
        "../../scripts/score_probe.py"
