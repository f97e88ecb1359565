# READS   results/samples/, results/tables/, results/models/, results/metrics/, results/predictions/, results/labels/
# WRITES  results/exports/{cohort}/{sample}.geojson and .zarr, results/slides/...errors.geojson,
#         results/exports/{experiment}/{model}/{cohort}/{sample}.*, results/bundles/{experiment}/{model}   by target, not part of `all`


rule export_qupath:
    input:
        unpack(inputs(PLAN.sections.outlines)),
        sample=paths.SAMPLE,
    output:
        geojson=paths.QUPATH,
    log:
        "logs/exports/export_qupath/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/exports/export_qupath/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["export_qupath"]),
        runtime=runtime(NEEDS["export_qupath"]),
    params:
        code=code_of("exports"),
        crop=PLAN.config.qupath_crop,
    script:
        "../../scripts/export_qupath.py"


rule export_spatialdata:
    input:
        unpack(inputs(PLAN.sections.outlines)),
        sample=paths.SAMPLE,
    output:
        zarr=directory(paths.SPATIALDATA),
    log:
        "logs/exports/export_spatialdata/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/exports/export_spatialdata/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["export_spatialdata"]),
        runtime=runtime(NEEDS["export_spatialdata"]),
    params:
        code=code_of("exports"),
    script:
        "../../scripts/export_spatialdata.py"


rule export_errors:
    input:
        cases=paths.CASES,
        sample=paths.SAMPLE,
    output:
        geojson=paths.SLIDE_ERRORS,
    log:
        "logs/exports/export_errors/{experiment}/{model}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/exports/export_errors/{experiment}/{model}/{cohort}/{sample}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["export_errors"]),
        runtime=runtime(NEEDS["export_errors"]),
    params:
        code=code_of("exports"),
        crop=PLAN.config.qupath_crop,
    script:
        "../../scripts/export_errors.py"


rule make_bundle:
    input:
        models=inputs(PLAN.models.all_files),
        training=paths.TRAINING_RANGE,
        metrics=paths.METRICS,
    output:
        bundle=directory(paths.BUNDLE),
    log:
        "logs/exports/make_bundle/{experiment}/{model}.log",
    benchmark:
        "benchmarks/exports/make_bundle/{experiment}/{model}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["predict_model"]),
        runtime=runtime(NEEDS["predict_model"]),
    params:
        spec=spec(PLAN.models.bundle_spec),
        version=version_of("bundles"),
    script:
        "../../scripts/make_bundle.py"


rule export_predictions:
    input:
        unpack(inputs(PLAN.viewers.files)),
    output:
        h5ad=paths.fill(paths.EXPORT, ending="h5ad"),
    log:
        "logs/exports/export_predictions/{experiment}/{model}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/exports/export_predictions/{experiment}/{model}/{cohort}/{sample}.tsv"
    wildcard_constraints:
        experiment=f"(?!({CLASSES})/)({EXPERIMENTS}|{APPLICATIONS})",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["write_viewer"]),
        runtime=runtime(NEEDS["write_viewer"]),
    params:
        code=code_of("viewer"),
    script:
        "../../scripts/export_view.py"


rule export_labels:
    input:
        labels=paths.LABELS,
        sample=paths.SAMPLE,
    output:
        h5ad=paths.fill(paths.LABELS_EXPORT, ending="h5ad"),
    log:
        "logs/exports/export_labels/{labels}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/exports/export_labels/{labels}/{cohort}/{sample}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["write_viewer"]),
        runtime=runtime(NEEDS["write_viewer"]),
    params:
        code=code_of("viewer"),
    script:
        "../../scripts/export_view.py"


rule export_cells:
    input:
        unpack(inputs(PLAN.clusters.cell_files)),
    output:
        h5ad=paths.fill(paths.EXPORT, ending="h5ad"),
        groups=paths.fill(paths.EXPORT, ending="groups.csv"),
        geojson=paths.fill(paths.EXPORT, ending="cells.geojson"),
    log:
        "logs/exports/export_cells/{experiment}/{model}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/exports/export_cells/{experiment}/{model}/{cohort}/{sample}.tsv"
    wildcard_constraints:
        experiment=CLASSES,
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["export_spatialdata"]),
        runtime=runtime(NEEDS["export_spatialdata"]),
    params:
        code=code_of("cell_exports"),
        crop=PLAN.config.qupath_crop,
    script:
        "../../scripts/export_cells.py"


rule export_model_spatialdata:
    input:
        unpack(inputs(PLAN.sections.outlines)),
        sample=paths.fill(paths.EXPORT, ending="h5ad"),
    output:
        zarr=directory(paths.fill(paths.EXPORT, ending="zarr")),
    log:
        "logs/exports/export_model_spatialdata/{experiment}/{model}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/exports/export_model_spatialdata/{experiment}/{model}/{cohort}/{sample}.tsv"
    wildcard_constraints:
        experiment=f"{EXPERIMENTS}|{APPLICATIONS}",
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["export_spatialdata"]),
        runtime=runtime(NEEDS["export_spatialdata"]),
    params:
        code=code_of("exports"),
    script:
        "../../scripts/export_spatialdata.py"


rule export_labels_spatialdata:
    input:
        sample=paths.fill(paths.LABELS_EXPORT, ending="h5ad"),
    output:
        zarr=directory(paths.fill(paths.LABELS_EXPORT, ending="zarr")),
    log:
        "logs/exports/export_labels_spatialdata/{labels}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/exports/export_labels_spatialdata/{labels}/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["export_spatialdata"]),
        runtime=runtime(NEEDS["export_spatialdata"]),
    params:
        code=code_of("exports"),
    script:
        "../../scripts/export_spatialdata.py"
