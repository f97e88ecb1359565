# READS   results/samples/, the slide
# WRITES  results/nuclei/{cohort}/{sample}.parquet  nuclei counted under each spot


rule count_nuclei:
    input:
        sample="results/samples/{cohort}/{sample}.h5ad",
        slide=get("slide", "cohort", "sample"),
    output:
        nuclei="results/nuclei/{cohort}/{sample}.parquet",
    log:
        "logs/nuclei/count_nuclei/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/nuclei/count_nuclei/{cohort}/{sample}.tsv"
    conda:
        "../../envs/embed.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("count_nuclei"),
        runtime=get_runtime("count_nuclei"),
    params:
        code=code_of("nuclei"),
    script:
        "../../scripts/count_nuclei.py"
