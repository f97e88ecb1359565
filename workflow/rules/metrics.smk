# READS   results/predictions/, results/targets/, results/folds/, results/labels/, results/samples/
# WRITES  results/metrics/{experiment}/{model}.parquet, results/metrics/checks/{check}.parquet  long tidy rows;
#         results/metrics/leaks/{experiment}/{model}.parquet  comparisons that no headline may average


rule score_model:
    input:
        predictions=inputs(PLAN.models.predictions),
        target=paths.TARGET,
        folds=paths.FOLDS,
    output:
        metrics=paths.METRICS,
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
        mem_mb=memory(NEEDS["score_model"]),
        runtime=runtime(NEEDS["score_model"]),
    params:
        spec=spec(PLAN.experiments.spec, part="scoring"),
        code=code_of("metrics"),
    script:
        "../../scripts/score_model.py"


rule score_leaks:
    input:
        predictions=paths.LEAKAGE_PREDICTIONS,
        target=paths.TARGET,
        folds=paths.FOLDS,
    output:
        metrics=paths.LEAKAGE_METRICS,
    log:
        "logs/metrics/score_leaks/{experiment}/{model}.log",
    benchmark:
        "benchmarks/metrics/score_leaks/{experiment}/{model}.tsv"
    wildcard_constraints:
        experiment=LEAKS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    params:
        leakage=True,
        spec=spec(PLAN.experiments.spec, part="scoring"),
        code=code_of("metrics"),
    script:
        "../../scripts/score_model.py"


rule run_check:
    input:
        unpack(inputs(PLAN.checks.files)),
    output:
        metrics=paths.CHECK,
    log:
        "logs/metrics/run_check/{check}.log",
    benchmark:
        "benchmarks/metrics/run_check/{check}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["run_check"]),
        runtime=runtime(NEEDS["run_check"]),
    params:
        spec=spec(PLAN.checks.spec),
        code=code_of("checks"),
    script:
        "../../scripts/run_check.py"
