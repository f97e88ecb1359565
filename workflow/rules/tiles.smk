# READS   results/samples/, the slide
# WRITES  results/tiles/{tiles}/{cohort}/{sample}.parquet  which tiles are kept, and why the others are not;
#         results/figures/outlines/{tiles}/{cohort}/{sample}.png  tiles on the outlines of cells and nuclei


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
        code=code_of("tiles"),
    script:
        "../../scripts/cut_tiles.py"


rule draw_outlines:
    input:
        unpack(get("outlines", "cohort", "sample", needed=True)),
        sample="results/samples/{cohort}/{sample}.h5ad",
        slide=get("slide", "cohort", "sample"),
        tiles="results/tiles/{tiles}/{cohort}/{sample}.parquet",
    output:
        picture=report(
            "results/figures/outlines/{tiles}/{cohort}/{sample}.png",
            caption="../report/outlines.rst",
            category="1. What was measured",
            labels={"cohort": "{cohort}", "section": "{sample}", "figure": "outlines"},
        ),
    log:
        "logs/tiles/draw_outlines/{tiles}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/tiles/draw_outlines/{tiles}/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("draw_outlines"),
        runtime=get_runtime("draw_outlines"),
    params:
        code=code_of("tiles"),
    script:
        "../../scripts/draw_outlines.py"
