# READS   results/samples/, results/tiles/, results/labels/
# WRITES  results/targets/{experiment}/target.h5ad  what is predicted, on which observations;
#         results/folds/{experiment}.parquet        who trains and who is tested, written once


rule build_target:
    input:
        unpack(get("target_files", "experiment")),
    output:
        target="results/targets/{experiment}/target.h5ad",
    log:
        "logs/folds/build_target/{experiment}.log",
    benchmark:
        "benchmarks/folds/build_target/{experiment}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("build_target"),
        runtime=get_runtime("build_target"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="target"),
        code=code_of("targets"),
    script:
        "../../scripts/build_target.py"


rule make_folds:
    input:
        target="results/targets/{experiment}/target.h5ad",
        splits=get("published_splits", "experiment"),
    output:
        folds="results/folds/{experiment}.parquet",
    log:
        "logs/folds/make_folds/{experiment}.log",
    benchmark:
        "benchmarks/folds/make_folds/{experiment}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("make_folds"),
        runtime=get_runtime("make_folds"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="folds"),
        code=code_of("folds"),
    script:
        "../../scripts/make_folds.py"
