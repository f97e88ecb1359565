# READS   results/samples/, results/tiles/, the slides, weights; or features that other software computed
# WRITES  results/embeddings/{tiles}/{encoder}/{cohort}/{batch}.h5   features of every kept tile
#         results/efficiency/embeddings/                             what a job cost


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
        specs=get_spec("encoder_specs", "encoder"),
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


# Encoders of an entry under `encoder_groups`: one job reads every tile once and writes a file for each of them. A rule
# for each group, since its outputs are those of its encoders.
for group in PLAN.encoder_groups:

    rule:
        name:
            group.rule
        input:
            unpack(get("group_files", "cohort", "batch", group=group)),
        output:
            embeddings=expand(
                "results/embeddings/{{tiles}}/{encoder}/{{cohort}}/{{batch}}.h5",
                encoder=group.encoders,
            ),
            efficiency=expand(
                "results/efficiency/embeddings/{{tiles}}/{encoder}/{{cohort}}/{{batch}}.json",
                encoder=group.encoders,
            ),
        log:
            f"logs/embeddings/{group.rule}/{{tiles}}/{{cohort}}/{{batch}}.log",
        benchmark:
            f"benchmarks/embeddings/{group.rule}/{{tiles}}/{{cohort}}/{{batch}}.tsv"
        wildcard_constraints:
            cohort="|".join(group.cohorts),
        conda:
            "../../envs/embed.yaml"
        threads: 2
        resources:
            mem_mb=get_memory(f"embed_group.{PLAN.group_kind(group)}"),
            runtime=get_runtime(f"embed_group.{PLAN.group_kind(group)}"),
            gpu=max(PLAN.encoder_gpu(encoder) for encoder in group.encoders),
        params:
            specs=canonical_json(PLAN.encoder_specs(*group.encoders)),
            version=version_of("embeddings"),
        script:
            "../../scripts/embed_batch.py"
