# READS   a section's raw files (sources) and its row of the cohort sheet
# WRITES  results/samples/{cohort}/{sample}.h5ad  the canonical section, and a picture for quality control;
#         results/samples/{cohort}/{sample}.{outline}.parquet  outlines of cells and nuclei on the slide


rule read_section:
    input:
        unpack(get("sample_files", "cohort", "sample")),
    output:
        sample="results/samples/{cohort}/{sample}.h5ad",
        picture=report(
            "results/figures/samples/{cohort}/{sample}.png",
            caption="../report/section.rst",
            category="1. What was measured",
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
        mem_mb=get_memory("read_section", "cohort_source", "cohort"),
        runtime=get_runtime("read_section", "cohort_source", "cohort"),
    params:
        spec=get_spec("cohort_spec", "cohort"),
        row=get_spec("row", "cohort", "sample"),
        code=code_of("samples"),
    script:
        "../../scripts/read_section.py"


rule place_outlines:
    input:
        unpack(get("outline_files", "cohort", "sample", "outline")),
    output:
        outlines="results/samples/{cohort}/{sample}.{outline}.parquet",
    log:
        "logs/samples/place_outlines/{cohort}/{sample}.{outline}.log",
    benchmark:
        "benchmarks/samples/place_outlines/{cohort}/{sample}.{outline}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("place_outlines"),
        runtime=get_runtime("place_outlines"),
    params:
        code=code_of("polygons"),
    script:
        "../../scripts/place_outlines.py"
