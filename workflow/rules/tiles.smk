# READS   results/samples/, the slide
# WRITES  results/tiles/{tiles}/{cohort}/{sample}.parquet  which tiles are kept, and why the others are not


rule cut_tiles:
    input:
        sample="results/samples/{cohort}/{sample}.h5ad",
        slide=get_slide,
    output:
        tiles="results/tiles/{tiles}/{cohort}/{sample}.parquet",
        picture="results/figures/tiles/{tiles}/{cohort}/{sample}.png",
    log:
        "logs/tiles/cut_tiles/{tiles}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/tiles/cut_tiles/{tiles}/{cohort}/{sample}.tsv"
    params:
        spec=get_tiles_spec,
        code=PLAN.code.get("tiles"),
    threads: 1
    resources:
        mem_mb=2500,
        runtime=30,
    conda:
        "../../envs/core.yaml"
    script:
        "../../scripts/cut_tiles.py"
