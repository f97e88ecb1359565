# READS   results/predictions/, results/targets/, results/folds/, results/labels/, results/samples/
# WRITES  results/metrics/{experiment}/{model}.parquet, results/metrics/judges/{judge}.parquet  long tidy rows


rule score_model:
    input:
        predictions="results/predictions/{experiment}/{model}/default.h5ad",
        target="results/targets/{experiment}/target.h5ad",
        folds="results/folds/{experiment}.parquet",
    output:
        metrics="results/metrics/{experiment}/{model}.parquet",
    log:
        "logs/metrics/score_model/{experiment}/{model}.log",
    benchmark:
        "benchmarks/metrics/score_model/{experiment}/{model}.tsv"
    params:
        spec=get_experiment_spec("scoring"),
        code=PLAN.code.get("metrics"),
    wildcard_constraints:
        experiment=EXPERIMENTS,
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    conda:
        "../../envs/report.yaml"
    script:
        "../../scripts/score_model.py"


rule score_labels:
    input:
        unpack(get_judge_files),
    output:
        metrics="results/metrics/judges/{judge}.parquet",
    log:
        "logs/metrics/score_labels/{judge}.log",
    benchmark:
        "benchmarks/metrics/score_labels/{judge}.tsv"
    params:
        spec=get_judge_spec,
        code=PLAN.code.get("metrics"),
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    conda:
        "../../envs/report.yaml"
    script:
        "../../scripts/score_labels.py"
