# READS   results/targets/, results/folds/, results/embeddings/, results/audit/
# WRITES  results/targets/{experiment}/panel.parquet           the genes that each fold is scored on;
#         results/predictions/{experiment}/{model}/{variant}.h5ad  of a probe: model = encoder, variant = choice of alpha;
#         results/metrics/{experiment}/{model}.parquet


rule select_panel:
    input:
        target=paths.TARGET,
        folds=paths.FOLDS,
    output:
        panel=paths.PANEL,
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
        mem_mb=memory(NEEDS["select_panel"]),
        runtime=runtime(NEEDS["select_panel"]),
    params:
        spec=spec(PLAN.experiments.spec, part="panel"),
        code=code_of("panel"),
    script:
        "../../scripts/select_panel.py"


rule run_probe:
    input:
        unpack(inputs(PLAN.models.probe_embeddings)),
        target=paths.TARGET,
        folds=paths.FOLDS,
        panel=paths.PANEL,
        # Nothing is fitted before the content guard has passed; a new look at the sections refits nothing.
        audit=ancient(inputs(PLAN.experiments.audit_file)),
    output:
        predictions=paths.PREDICTIONS,
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
        mem_mb=memory(NEEDS["run_probe"]),
        runtime=runtime(NEEDS["run_probe"]),
    params:
        spec=spec(PLAN.experiments.spec, part="probe"),
        code=code_of("probe"),
    script:
        "../../scripts/run_probe.py"


rule score_probe:
    input:
        predictions=inputs(PLAN.models.probe_predictions),
        target=paths.TARGET,
    output:
        metrics=paths.METRICS,
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
        mem_mb=memory(NEEDS["score_probe"]),
        runtime=runtime(NEEDS["score_probe"]),
    params:
        spec=spec(PLAN.experiments.spec, part="scoring"),
        code=code_of("metrics"),
    script:
        "../../scripts/score_probe.py"
