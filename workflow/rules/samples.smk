# READS   a section's raw files (sources) and its row of the cohort sheet
# WRITES  results/samples/{cohort}/{sample}.h5ad  the canonical section, and a picture for quality control


rule read_section:
    input:
        unpack(get("sample_files", "cohort", "sample")),
    output:
        sample="results/samples/{cohort}/{sample}.h5ad",
        picture=report(
            "results/figures/samples/{cohort}/{sample}.png",
            caption="../report/section.rst",
            category="7. Sections",
            labels={"cohort": "{cohort}", "section": "{sample}", "figure": "spots"},
        ),
    log:
        "logs/samples/read_section/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/samples/read_section/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("read_section"),
        runtime=get_runtime("read_section"),
    params:
        spec=get_spec("cohort_spec", "cohort"),
        row=get_spec("row", "cohort", "sample"),
        code=PLAN.code.get("samples"),
    script:
        "../../scripts/read_section.py"
