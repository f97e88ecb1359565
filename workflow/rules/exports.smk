# READS   results/samples/, results/tables/
# WRITES  results/exports/{cohort}/{sample}.geojson and .zarr, results/slides/...errors.geojson  by target, not part of `all`


rule export_qupath:
    input:
        unpack(get("outlines", "cohort", "sample")),
        sample="results/samples/{cohort}/{sample}.h5ad",
    output:
        geojson="results/exports/{cohort}/{sample}.geojson",
    log:
        "logs/exports/export_qupath/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/exports/export_qupath/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("export_qupath"),
        runtime=get_runtime("export_qupath"),
    params:
        code=code_of("exports"),
    script:
        "../../scripts/export_qupath.py"


rule export_spatialdata:
    input:
        unpack(get("outlines", "cohort", "sample")),
        sample="results/samples/{cohort}/{sample}.h5ad",
    output:
        zarr=directory("results/exports/{cohort}/{sample}.zarr"),
    log:
        "logs/exports/export_spatialdata/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/exports/export_spatialdata/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("export_spatialdata"),
        runtime=get_runtime("export_spatialdata"),
    params:
        code=code_of("exports"),
    script:
        "../../scripts/export_spatialdata.py"


rule export_errors:
    input:
        cases="results/tables/{experiment}/{model}/errors.csv",
        sample="results/samples/{cohort}/{sample}.h5ad",
    output:
        geojson="results/slides/{experiment}/{model}/{cohort}/{sample}.errors.geojson",
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
        mem_mb=get_memory("export_errors"),
        runtime=get_runtime("export_errors"),
    params:
        code=code_of("exports"),
    script:
        "../../scripts/export_errors.py"
