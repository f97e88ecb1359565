# READS   a section's raw files (sources) and its row of the cohort sheet
# WRITES  results/samples/{cohort}/{sample}.h5ad  the canonical section, and a picture for quality control;
#         results/samples/{cohort}/{sample}.{outline}.parquet  outlines of cells and nuclei on the slide


rule read_section:
    input:
        unpack(inputs(PLAN.sections.raw_files)),
    output:
        sample=paths.SAMPLE,
        picture=report(
            paths.SAMPLE_PICTURE,
            caption="../report/section.rst",
            category=chapter("What was measured"),
            labels={"cohort": "{cohort}", "section": "{sample}"},
        ),
    log:
        "logs/samples/read_section/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/samples/read_section/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(PLAN.sections.memory),
        runtime=runtime(PLAN.sections.memory),
    params:
        spec=spec(PLAN.sections.spec),
        row=spec(PLAN.sections.row),
        code=code_of("samples"),
    script:
        "../../scripts/read_section.py"


rule place_outlines:
    input:
        unpack(inputs(PLAN.sections.outline_files)),
    output:
        outlines=paths.OUTLINES,
    log:
        "logs/samples/place_outlines/{cohort}/{sample}.{outline}.log",
    benchmark:
        "benchmarks/samples/place_outlines/{cohort}/{sample}.{outline}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["place_outlines"]),
        runtime=runtime(NEEDS["place_outlines"]),
    params:
        code=code_of("polygons"),
    script:
        "../../scripts/place_outlines.py"
