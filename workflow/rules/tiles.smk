# READS   results/samples/, the slide
# WRITES  results/tiles/{tiles}/{cohort}/{sample}.parquet  which tiles are kept, and why the others are not


rule cut_tiles:
    input:
        sample="results/samples/{cohort}/{sample}.h5ad",
        slide=get("slide", "cohort", "sample"),
    output:
        tiles="results/tiles/{tiles}/{cohort}/{sample}.parquet",
        picture="results/figures/tiles/{tiles}/{cohort}/{sample}.png",
    log:
        "logs/tiles/cut_tiles/{tiles}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/tiles/cut_tiles/{tiles}/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("cut_tiles"),
        runtime=get_runtime("cut_tiles"),
    params:
        spec=get_spec("entry", "tiles", section="tiles"),
        code=PLAN.code.get("tiles"),
    script:
        "../../scripts/cut_tiles.py"
