# READS   results/samples/, the slide
# WRITES  results/tiles/{tiles}/{cohort}/{sample}.parquet  which tiles are kept, and why the others are not;
#         results/figures/outlines/{tiles}/{cohort}/{sample}.jpg  tiles on the outlines of cells and nuclei


rule cut_tiles:
    input:
        sample=paths.SAMPLE,
        slide=inputs(PLAN.sections.slide_files),
    output:
        tiles=paths.TILES,
        picture=paths.TILES_PICTURE,
    log:
        "logs/tiles/cut_tiles/{tiles}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/tiles/cut_tiles/{tiles}/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["cut_tiles"]),
        runtime=runtime(NEEDS["cut_tiles"]),
    params:
        spec=spec(PLAN.sections.tiles_spec),
        code=code_of("tiles"),
    script:
        "../../scripts/cut_tiles.py"


rule draw_outlines:
    input:
        unpack(inputs(PLAN.sections.needed_outlines)),
        sample=paths.SAMPLE,
        slide=inputs(PLAN.sections.slide),
        tiles=paths.TILES,
    output:
        picture=report(
            paths.OUTLINES_PICTURE,
            caption="../report/outlines.rst",
            category=chapter("What was measured"),
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
        mem_mb=memory(NEEDS["draw_outlines"]),
        runtime=runtime(NEEDS["draw_outlines"]),
    params:
        code=code_of("tiles"),
    script:
        "../../scripts/draw_outlines.py"
