# READS   a section's raw files (sources) and its row of the cohort sheet
# WRITES  results/samples/{cohort}/{sample}.h5ad  the canonical section, and a picture for quality control


rule read_section:
    input:
        unpack(get_sample_files),
    output:
        sample="results/samples/{cohort}/{sample}.h5ad",
        picture=report(
            "results/figures/samples/{cohort}/{sample}.png",
            caption="../report/section.rst",
            category="Sections",
            labels={"cohort": "{cohort}", "section": "{sample}", "figure": "spots"},
        ),
    log:
        "logs/samples/read_section/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/samples/read_section/{cohort}/{sample}.tsv"
    params:
        spec=get_cohort_spec,
        row=get_row,
        code=PLAN.code.get("samples"),
    threads: 1
    resources:
        mem_mb=2500,
        runtime=30,
    conda:
        "../../envs/core.yaml"
    script:
        "../../scripts/read_section.py"
