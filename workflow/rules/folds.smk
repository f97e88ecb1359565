# READS   results/samples/, results/tiles/, results/labels/
# WRITES  results/targets/{experiment}/target.h5ad  what is predicted, on which observations;
#         results/folds/{experiment}.parquet        who trains and who is tested, written once;
#         results/targets/{experiment}/panel.parquet  the genes that each fold predicts


rule build_target:
    input:
        unpack(inputs(PLAN.models.target_files)),
    output:
        target=paths.TARGET,
    log:
        "logs/folds/build_target/{experiment}.log",
    benchmark:
        "benchmarks/folds/build_target/{experiment}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["build_target"]),
        runtime=runtime(NEEDS["build_target"]),
    params:
        spec=spec(PLAN.experiments.spec, part="target"),
        code=code_of("targets"),
    script:
        "../../scripts/build_target.py"


rule make_folds:
    input:
        target=paths.TARGET,
        splits=inputs(PLAN.experiments.published_splits),
    output:
        folds=paths.FOLDS,
    log:
        "logs/folds/make_folds/{experiment}.log",
    benchmark:
        "benchmarks/folds/make_folds/{experiment}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["make_folds"]),
        runtime=runtime(NEEDS["make_folds"]),
    params:
        spec=spec(PLAN.experiments.spec, part="folds"),
        code=code_of("folds"),
    script:
        "../../scripts/make_folds.py"


rule select_panel:
    input:
        target=paths.TARGET,
        folds=paths.FOLDS,
    output:
        panel=paths.PANEL,
    log:
        "logs/folds/select_panel/{experiment}.log",
    benchmark:
        "benchmarks/folds/select_panel/{experiment}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["select_panel"]),
        runtime=runtime(NEEDS["select_panel"]),
    params:
        spec=spec(PLAN.experiments.spec, part="target"),
        code=code_of("panel"),
    script:
        "../../scripts/select_panel.py"
