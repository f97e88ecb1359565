# READS   results/samples/, the slide
# WRITES  results/nuclei/{cohort}/{sample}.parquet  nuclei counted under each spot


rule count_nuclei:
    input:
        sample=paths.SAMPLE,
        slide=inputs(PLAN.sections.slide),
    output:
        nuclei=paths.NUCLEI,
    log:
        "logs/nuclei/count_nuclei/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/nuclei/count_nuclei/{cohort}/{sample}.tsv"
    conda:
        "../../envs/embed.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["count_nuclei"]),
        runtime=runtime(NEEDS["count_nuclei"]),
    params:
        code=code_of("nuclei"),
    script:
        "../../scripts/count_nuclei.py"
