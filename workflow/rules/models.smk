# READS   results/targets/, results/folds/, results/embeddings/
# WRITES  results/models/{experiment}/{model}.pt  all folds and seeds, and the fold `all`;
#         results/predictions/{experiment}/{model}/...


rule train_model:
    input:
        unpack(get_model_embeddings),
        target="results/targets/{experiment}/target.h5ad",
        folds="results/folds/{experiment}.parquet",
    output:
        model="results/models/{experiment}/{model}.pt",
        efficiency="results/efficiency/models/{experiment}/{model}.json",
    log:
        "logs/models/train_model/{experiment}/{model}.log",
    benchmark:
        "benchmarks/models/train_model/{experiment}/{model}.tsv"
    params:
        spec=get_model_spec,
        experiment=get_experiment_spec("training"),
        version=STAGE_VERSIONS["models"],
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=get_model_gpu,
    conda:
        "../../envs/models.yaml"
    script:
        "../../scripts/train_model.py"


rule predict_model:
    input:
        unpack(get_model_embeddings),
        model="results/models/{experiment}/{model}.pt",
        target="results/targets/{experiment}/target.h5ad",
        folds="results/folds/{experiment}.parquet",
    output:
        predictions="results/predictions/{experiment}/{model}/{variant}.h5ad",
    log:
        "logs/models/predict_model/{experiment}/{model}/{variant}.log",
    benchmark:
        "benchmarks/models/predict_model/{experiment}/{model}/{variant}.tsv"
    params:
        spec=get_model_spec,
        experiment=get_experiment_spec("training"),
        version=STAGE_VERSIONS["models"],
    wildcard_constraints:
        experiment=EXPERIMENTS,
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    conda:
        "../../envs/models.yaml"
    script:
        "../../scripts/predict_model.py"


rule apply_model:
    input:
        unpack(get_apply_files),
    output:
        predictions="results/predictions/{experiment}/{model}/slides.h5ad",
    log:
        "logs/models/apply_model/{experiment}/{model}.log",
    benchmark:
        "benchmarks/models/apply_model/{experiment}/{model}.tsv"
    params:
        spec=get_model_spec,
        experiment=get_experiment_spec("all"),
        version=STAGE_VERSIONS["models"],
    wildcard_constraints:
        experiment=APPLICATIONS,
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    conda:
        "../../envs/models.yaml"
    script:
        "../../scripts/apply_model.py"
