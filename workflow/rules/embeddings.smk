# READS   results/samples/, results/tiles/, the slides, weights; or features that other software computed
# WRITES  results/embeddings/{tiles}/{encoder}/{cohort}/{batch}.h5         features of every kept tile
#         results/embeddings/{tiles}/{joint}.pass/{cohort}/{batch}.json  what several encoders made in one pass


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
        encoder=ALONE,
    conda:
        "../../envs/embed.yaml"
    threads: 2
    resources:
        mem_mb=get_memory("embed_batch", "encoder_kind", "encoder"),
        runtime=get_runtime("embed_batch", "encoder_kind", "encoder"),
        gpu=get("encoder_gpu", "encoder"),
    params:
        spec=get_spec("encoder_spec", "encoder"),
        version=version_of("embeddings"),
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
        version=version_of("embeddings"),
    script:
        "../../scripts/import_embeddings.py"


# Encoders of one entry under `passes`: the pixels are read once. The job embeds only what is not finished, or finished
# otherwise than this config asks for; `take_embedding` then gives each encoder's file its place.
rule embed_pass:
    input:
        unpack(get("pass_files", "joint", "cohort", "batch")),
    output:
        manifest="results/embeddings/{tiles}/{joint}.pass/{cohort}/{batch}.json",
    log:
        "logs/embeddings/embed_pass/{tiles}/{joint}/{cohort}/{batch}.log",
    benchmark:
        "benchmarks/embeddings/embed_pass/{tiles}/{joint}/{cohort}/{batch}.tsv"
    conda:
        "../../envs/embed.yaml"
    threads: 2
    resources:
        mem_mb=get_memory("embed_pass", "pass_kind", "joint"),
        runtime=get_runtime("embed_pass", "pass_kind", "joint"),
        gpu=get("pass_gpu", "joint"),
    params:
        specs=get_spec("pass_specs", "joint", "cohort"),
        version=version_of("embeddings"),
    script:
        "../../scripts/embed_pass.py"


# Not `ancient(manifest)`: Snakemake 9.27 then passes over a file that is missing or stale itself whenever the pass runs.
rule take_embedding:
    input:
        unpack(get("batch_files", "encoder", "cohort", "batch")),
        manifest=get("pass_manifest", "encoder", "cohort", "batch"),
    output:
        embeddings="results/embeddings/{tiles}/{encoder}/{cohort}/{batch}.h5",
        efficiency="results/efficiency/embeddings/{tiles}/{encoder}/{cohort}/{batch}.json",
    log:
        "logs/embeddings/take_embedding/{tiles}/{encoder}/{cohort}/{batch}.log",
    benchmark:
        "benchmarks/embeddings/take_embedding/{tiles}/{encoder}/{cohort}/{batch}.tsv"
    wildcard_constraints:
        encoder=JOINT,
    conda:
        "../../envs/embed.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("take_embedding"),
        runtime=get_runtime("take_embedding"),
    params:
        spec=get_spec("encoder_spec", "encoder"),
        version=version_of("embeddings"),
    script:
        "../../scripts/take_embedding.py"
