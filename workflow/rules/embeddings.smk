# READS   results/samples/, results/tiles/, the slides, weights; or features that other software computed
# WRITES  results/embeddings/{tiles}/{encoder}/{cohort}/{batch}.h5  features of every kept tile


rule embed_batch:
    input:
        unpack(get("batch_files", "encoder", "cohort", "batch")),
    output:
        embeddings="results/embeddings/{tiles}/{encoder}/{cohort}/{batch}.h5",
        efficiency="results/efficiency/embeddings/{tiles}/{encoder}/{cohort}/{batch}.json",
    log:
        "logs/embeddings/embed_batch/{tiles}/{encoder}/{cohort}/{batch}.log",
    benchmark:
        "benchmarks/embeddings/embed_batch/{tiles}/{encoder}/{cohort}/{batch}.tsv"
    wildcard_constraints:
        encoder=COMPUTED,
    conda:
        "../../envs/embed.yaml"
    threads: 2
    resources:
        mem_mb=get_memory("embed_batch", "encoder_kind", "encoder"),
        runtime=get_runtime("embed_batch", "encoder_kind", "encoder"),
        gpu=get("encoder_gpu", "encoder"),
    params:
        spec=get_spec("encoder_spec", "encoder"),
        version=STAGE_VERSIONS["embeddings"],
    script:
        "../../scripts/embed_batch.py"


# The same artefact from TRIDENT's or HEST's h5: nothing is encoded, so there is nothing to time.
rule import_embeddings:
    input:
        unpack(get("batch_files", "encoder", "cohort", "batch")),
    output:
        embeddings="results/embeddings/{tiles}/{encoder}/{cohort}/{batch}.h5",
    log:
        "logs/embeddings/import_embeddings/{tiles}/{encoder}/{cohort}/{batch}.log",
    benchmark:
        "benchmarks/embeddings/import_embeddings/{tiles}/{encoder}/{cohort}/{batch}.tsv"
    wildcard_constraints:
        encoder=PRECOMPUTED,
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("import_embeddings"),
        runtime=get_runtime("import_embeddings"),
    params:
        spec=get_spec("encoder_spec", "encoder"),
        version=STAGE_VERSIONS["embeddings"],
    script:
        "../../scripts/import_embeddings.py"
