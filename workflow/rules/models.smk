# READS   results/targets/, results/folds/, results/embeddings/, results/audit/
# WRITES  results/models/{experiment}/{model}.pt  all folds and seeds, and the fold `all`;
#         results/predictions/{experiment}/{model}/...


rule train_model:
    input:
        unpack(inputs(PLAN.models.inputs)),
        target=paths.TARGET,
        folds=paths.FOLDS,
        # Nothing is trained before the content guard has passed; a new look at the sections retrains nothing.
        audit=ancient(inputs(PLAN.experiments.audit_file)),
    output:
        model=paths.MODEL,
        efficiency=paths.MODEL_EFFICIENCY,
    log:
        "logs/models/train_model/{experiment}/{model}.log",
    benchmark:
        "benchmarks/models/train_model/{experiment}/{model}.tsv"
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(PLAN.models.memory),
        runtime=runtime(PLAN.models.memory),
        gpu=inputs(PLAN.models.gpu),
    params:
        spec=spec(PLAN.models.spec),
        experiment=spec(PLAN.experiments.spec, part="training"),
        version=inputs(PLAN.models.version),
    script:
        "../../scripts/train_model.py"


rule predict_model:
    input:
        unpack(inputs(PLAN.models.inputs)),
        model=paths.MODEL,
        target=paths.TARGET,
        folds=paths.FOLDS,
    output:
        predictions=paths.PREDICTIONS,
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
        mem_mb=memory(NEEDS["predict_model"]),
        runtime=runtime(NEEDS["predict_model"]),
    params:
        spec=spec(PLAN.models.spec),
        experiment=spec(PLAN.experiments.spec, part="training"),
        version=inputs(PLAN.models.version),
    script:
        "../../scripts/predict_model.py"


rule apply_model:
    input:
        unpack(inputs(PLAN.models.apply_files)),
    output:
        predictions=paths.SLIDE_PREDICTIONS,
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
        mem_mb=memory(NEEDS["apply_model"]),
        runtime=runtime(NEEDS["apply_model"]),
    params:
        spec=spec(PLAN.models.spec),
        experiment=spec(PLAN.experiments.spec, part="applying"),
        version=inputs(PLAN.models.version),
    script:
        "../../scripts/apply_model.py"
