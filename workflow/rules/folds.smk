# READS   results/samples/, results/tiles/, results/labels/
# WRITES  results/targets/{experiment}/target.h5ad  what is predicted, on which observations;
#         results/folds/{experiment}.parquet        who trains and who is tested, written once


rule build_target:
    input:
        unpack(get_target_files),
    output:
        target="results/targets/{experiment}/target.h5ad",
    log:
        "logs/folds/build_target/{experiment}.log",
    benchmark:
        "benchmarks/folds/build_target/{experiment}.tsv"
    params:
        spec=get_experiment_spec("target"),
        code=PLAN.code.get("targets"),
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    conda:
        "../../envs/core.yaml"
    script:
        "../../scripts/build_target.py"


rule make_folds:
    input:
        target="results/targets/{experiment}/target.h5ad",
    output:
        folds="results/folds/{experiment}.parquet",
    log:
        "logs/folds/make_folds/{experiment}.log",
    benchmark:
        "benchmarks/folds/make_folds/{experiment}.tsv"
    params:
        spec=get_experiment_spec("folds"),
        code=PLAN.code.get("folds"),
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    conda:
        "../../envs/core.yaml"
    script:
        "../../scripts/make_folds.py"
