# READS   results/samples/, results/tiles/, the slides, weights
# WRITES  results/embeddings/{tiles}/{encoder}/{cohort}/{batch}.h5  features of every kept tile


rule embed_batch:
    input:
        unpack(get_batch_files),
    output:
        embeddings="results/embeddings/{tiles}/{encoder}/{cohort}/{batch}.h5",
        efficiency="results/efficiency/embeddings/{tiles}/{encoder}/{cohort}/{batch}.json",
    log:
        "logs/embeddings/embed_batch/{tiles}/{encoder}/{cohort}/{batch}.log",
    benchmark:
        "benchmarks/embeddings/embed_batch/{tiles}/{encoder}/{cohort}/{batch}.tsv"
    params:
        spec=get_encoder_spec,
        version=STAGE_VERSIONS["embeddings"],
    threads: 2
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=get_encoder_gpu,
    conda:
        "../../envs/embed.yaml"
    script:
        "../../scripts/embed_batch.py"
