# READS   results/predictions/, results/targets/, results/folds/, results/labels/, results/samples/
# WRITES  results/metrics/{experiment}/{model}.parquet, results/metrics/checks/{check}.parquet  long tidy rows;
#         results/metrics/leaks/{experiment}/{model}.parquet  comparisons that no headline may average


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
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("score_model"),
        runtime=get_runtime("score_model"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="scoring"),
        code=code_of("metrics"),
    script:
        "../../scripts/score_model.py"


rule score_leaks:
    input:
        predictions="results/predictions/{experiment}/{model}/leaks.h5ad",
        target="results/targets/{experiment}/target.h5ad",
        folds="results/folds/{experiment}.parquet",
    output:
        metrics="results/metrics/leaks/{experiment}/{model}.parquet",
    log:
        "logs/metrics/score_leaks/{experiment}/{model}.log",
    benchmark:
        "benchmarks/metrics/score_leaks/{experiment}/{model}.tsv"
    wildcard_constraints:
        experiment=LEAKS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("score_leaks"),
        runtime=get_runtime("score_leaks"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="scoring"),
        code=code_of("metrics"),
    script:
        "../../scripts/score_leaks.py"


rule run_check:
    input:
        unpack(get("check_files", "check")),
    output:
        metrics="results/metrics/checks/{check}.parquet",
    log:
        "logs/metrics/run_check/{check}.log",
    benchmark:
        "benchmarks/metrics/run_check/{check}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("run_check"),
        runtime=get_runtime("run_check"),
    params:
        spec=get_spec("named_entry", "check", section="checks"),
        code=code_of("checks"),
    script:
        "../../scripts/run_check.py"
