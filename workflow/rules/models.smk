# READS   results/targets/, results/folds/, results/embeddings/, results/audit/
# WRITES  results/models/{experiment}/{model}.pt  all folds and seeds, and the fold `all`;
#         results/predictions/{experiment}/{model}/...


rule train_model:
    input:
        unpack(get("model_embeddings", "experiment", "model")),
        target="results/targets/{experiment}/target.h5ad",
        folds="results/folds/{experiment}.parquet",
        # Nothing is trained before the content guard has passed; a new look at the sections retrains nothing.
        audit=ancient(get("audit_file", "experiment")),
    output:
        model="results/models/{experiment}/{model}.pt",
        efficiency="results/efficiency/models/{experiment}/{model}.json",
    log:
        "logs/models/train_model/{experiment}/{model}.log",
    benchmark:
        "benchmarks/models/train_model/{experiment}/{model}.tsv"
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("train_model", "model_kind", "model"),
        runtime=get_runtime("train_model", "model_kind", "model"),
        gpu=get("model_gpu", "model"),
    params:
        spec=get_spec("named_entry", "model", section="models"),
        experiment=get_spec("experiment_spec", "experiment", part="training"),
        version=get("model_version", "model"),
    script:
        "../../scripts/train_model.py"


rule predict_model:
    input:
        unpack(get("model_embeddings", "experiment", "model")),
        model="results/models/{experiment}/{model}.pt",
        target="results/targets/{experiment}/target.h5ad",
        folds="results/folds/{experiment}.parquet",
    output:
        predictions="results/predictions/{experiment}/{model}/{variant}.h5ad",
    log:
        "logs/models/predict_model/{experiment}/{model}/{variant}.log",
    benchmark:
        "benchmarks/models/predict_model/{experiment}/{model}/{variant}.tsv"
    wildcard_constraints:
        experiment=TRAINED,
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("predict_model"),
        runtime=get_runtime("predict_model"),
    params:
        spec=get_spec("named_entry", "model", section="models"),
        experiment=get_spec("experiment_spec", "experiment", part="training"),
        version=get("model_version", "model"),
    script:
        "../../scripts/predict_model.py"


rule apply_model:
    input:
        unpack(get("apply_files", "experiment", "model")),
    output:
        predictions="results/predictions/{experiment}/{model}/slides.h5ad",
    log:
        "logs/models/apply_model/{experiment}/{model}.log",
    benchmark:
        "benchmarks/models/apply_model/{experiment}/{model}.tsv"
    wildcard_constraints:
        experiment=APPLICATIONS,
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("apply_model"),
        runtime=get_runtime("apply_model"),
    params:
        spec=get_spec("named_entry", "model", section="models"),
        experiment=get_spec("experiment_spec", "experiment", part="all"),
        version=get("model_version", "model"),
    script:
        "../../scripts/apply_model.py"
