# READS   results/samples/, results/tiles/, the slides, weights; or features that other software computed
# WRITES  results/embeddings/{tiles}/{encoder}/{cohort}/{batch}.h5   features of every kept tile
#         results/efficiency/embeddings/                             what a job cost


rule embed_batch:
    input:
        unpack(inputs(PLAN.embeddings.batch_files)),
    output:
        embeddings=paths.EMBEDDINGS,
        efficiency=paths.EMBEDDINGS_EFFICIENCY,
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
        mem_mb=memory(PLAN.embeddings.kind),
        runtime=runtime(PLAN.embeddings.kind),
        gpu=fact(PLAN.embeddings.kind, "gpu"),
    params:
        specs=spec(PLAN.embeddings.batch_specs),
        version=version_of("embeddings"),
    script:
        "../../scripts/embed_batch.py"


# The same artefact from TRIDENT's or HEST's h5: nothing is encoded, so there is nothing to time.
rule import_embeddings:
    input:
        unpack(inputs(PLAN.embeddings.batch_files)),
    output:
        embeddings=paths.EMBEDDINGS,
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
        mem_mb=memory(NEEDS["import_embeddings"]),
        runtime=runtime(NEEDS["import_embeddings"]),
    params:
        spec=spec(PLAN.embeddings.spec),
        version=version_of("embeddings"),
    script:
        "../../scripts/import_embeddings.py"


# Encoders of an entry under `encoder_groups`: one job reads every tile once and writes a file for each of them. A rule
# for each group, since its outputs are those of its encoders.
for group in PLAN.embeddings.groups:

    rule:
        name:
            group.rule
        input:
            unpack(inputs(PLAN.embeddings.group_files, group=group)),
        output:
            embeddings=expand(
                paths.EMBEDDINGS, encoder=group.encoders, allow_missing=True
            ),
            efficiency=expand(
                paths.EMBEDDINGS_EFFICIENCY, encoder=group.encoders, allow_missing=True
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
            mem_mb=memory(PLAN.embeddings.group_memory(group)),
            runtime=runtime(PLAN.embeddings.group_memory(group)),
            gpu=max(PLAN.embeddings.kind(one).gpu for one in group.encoders),
        params:
            specs=canonical_json([*map(PLAN.embeddings.spec, group.encoders)]),
            version=version_of("embeddings"),
        script:
            "../../scripts/embed_batch.py"
