# READS   results/targets/, results/folds/, results/embeddings/, results/tiles/, the slides, results/audit/
# WRITES  results/pixels/{tiles}/{cohort}/{sample}.npy               tiles decoded once, removed when no model needs them;
#         results/models/{experiment}/{model}.pt                     all folds and seeds, and the fold `all`;
#         results/models/{experiment}/{model}/{fold}.{seed}.pt       one fold and training seed of a costly model;
#         results/models/{experiment}/{model}.training.npz           what `all` was trained on, for new slides;
#         results/representations/{experiment}/{model}/{fold}.h5ad   projections of cells by contrastive heads;
#         results/predictions/{experiment}/{model}/{variant}.h5ad


rule pack_tiles:
    input:
        sample=paths.SAMPLE,
        slide=inputs(PLAN.sections.slide),
        tiles=paths.TILES,
    output:
        pixels=temp(paths.PIXELS),
        index=temp(f"{paths.PIXELS}.json"),
    log:
        "logs/models/pack_tiles/{tiles}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/models/pack_tiles/{tiles}/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["pack_tiles"]),
        runtime=runtime(NEEDS["pack_tiles"]),
    params:
        spec=spec(PLAN.sections.tiles_spec),
        version=version_of("pixels"),
    script:
        "../../scripts/pack_tiles.py"


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
    wildcard_constraints:
        model=TOGETHER,
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(PLAN.models.kind),
        runtime=runtime(PLAN.models.kind),
        gpu=fact(PLAN.models.kind, "gpu"),
    params:
        spec=spec(PLAN.models.spec),
        experiment=spec(PLAN.experiments.spec, part="training"),
        version=fact(PLAN.models.kind, "version"),
    script:
        "../../scripts/train_model.py"


rule train_fold:
    input:
        unpack(inputs(PLAN.models.inputs)),
        target=paths.TARGET,
        folds=paths.FOLDS,
        others=inputs(PLAN.models.other_folds),
        audit=ancient(inputs(PLAN.experiments.audit_file)),
    output:
        model=paths.FOLD_MODEL,
        efficiency=paths.FOLD_EFFICIENCY,
    log:
        "logs/models/train_fold/{experiment}/{model}/{fold}.{seed}.log",
    benchmark:
        "benchmarks/models/train_fold/{experiment}/{model}/{fold}.{seed}.tsv"
    wildcard_constraints:
        model=BY_FOLD,
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(PLAN.models.kind),
        runtime=runtime(PLAN.models.kind),
        gpu=fact(PLAN.models.kind, "gpu"),
    params:
        spec=spec(PLAN.models.spec),
        experiment=spec(PLAN.experiments.spec, part="training"),
        version=fact(PLAN.models.kind, "version"),
    script:
        "../../scripts/train_model.py"


rule gather_efficiency:
    input:
        folds=inputs(PLAN.models.fold_efficiencies),
    output:
        efficiency=paths.MODEL_EFFICIENCY,
    log:
        "logs/models/gather_efficiency/{experiment}/{model}.log",
    benchmark:
        "benchmarks/models/gather_efficiency/{experiment}/{model}.tsv"
    wildcard_constraints:
        model=BY_FOLD,
    conda:
        "../../envs/core.yaml"
    threads: 1
    params:
        code=code_of("efficiency"),
    script:
        "../../scripts/gather_efficiency.py"


rule predict_model:
    input:
        unpack(inputs(PLAN.models.inputs)),
        models=inputs(PLAN.models.files),
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
        gpu=fact(PLAN.models.kind, "predicting_gpu"),
    params:
        spec=spec(PLAN.models.spec),
        experiment=spec(PLAN.experiments.spec, part="training"),
        version=fact(PLAN.models.kind, "version"),
    script:
        "../../scripts/predict_model.py"


rule represent_cells:
    input:
        unpack(inputs(PLAN.models.inputs)),
        model=inputs(PLAN.models.fold_model),
        target=paths.TARGET,
        folds=paths.FOLDS,
    output:
        representations=paths.REPRESENTATIONS,
        retrieval=paths.RETRIEVAL,
    log:
        "logs/models/represent_cells/{experiment}/{model}/{fold}.log",
    benchmark:
        "benchmarks/models/represent_cells/{experiment}/{model}/{fold}.tsv"
    wildcard_constraints:
        model=BY_FOLD,
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["predict_model"]),
        runtime=runtime(NEEDS["predict_model"]),
    params:
        spec=spec(PLAN.models.spec),
        experiment=spec(PLAN.experiments.spec, part="training"),
        version=version_of("representations"),
    script:
        "../../scripts/represent_cells.py"


rule summarise_training:
    input:
        unpack(inputs(PLAN.models.inputs)),
        target=paths.TARGET,
        folds=paths.FOLDS,
        sections=inputs(PLAN.experiments.sample_files),
    output:
        training=paths.TRAINING_RANGE,
    log:
        "logs/models/summarise_training/{experiment}/{model}.log",
    benchmark:
        "benchmarks/models/summarise_training/{experiment}/{model}.tsv"
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
        version=version_of("training_range"),
    script:
        "../../scripts/summarise_training.py"


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
        gpu=fact(PLAN.models.kind, "predicting_gpu"),
    params:
        spec=spec(PLAN.models.spec),
        experiment=spec(PLAN.experiments.spec, part="applying"),
        version=fact(PLAN.models.kind, "version"),
    script:
        "../../scripts/apply_model.py"
