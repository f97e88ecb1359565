# READS   results/targets/, results/folds/, results/embeddings/, results/representations/, results/samples/
# WRITES  results/clusters/{clusters}/{cohort}/{sample}.h5ad           clusters, UMAPs and niches of a section's cells;
#         results/clusters/{clusters}/{cohort}/{sample}.{table}.csv    agreement, enrichment, composition, contacts;
#         results/figures/clusters/, results/tables/clusters/          for people


rule cluster_cells:
    input:
        unpack(inputs(PLAN.clusters.inputs)),
    output:
        cells=paths.CLUSTERS,
    log:
        "logs/clusters/cluster_cells/{clusters}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/clusters/cluster_cells/{clusters}/{cohort}/{sample}.tsv"
    conda:
        "../../envs/cells.yaml"
    # The neighbours of many cells are found faster by threads, and are the same.
    threads: 2
    resources:
        mem_mb=memory(NEEDS["cluster_cells"]),
        runtime=runtime(NEEDS["cluster_cells"]),
    params:
        spec=spec(PLAN.clusters.spec),
        version=version_of("clusters"),
    script:
        "../../scripts/cluster_cells.py"


rule describe_clusters:
    input:
        cells=paths.CLUSTERS,
        sample=paths.SAMPLE,
    output:
        agreement=paths.fill(paths.CLUSTERS_PART, table="agreement"),
        enrichment=paths.fill(paths.CLUSTERS_PART, table="enrichment"),
        composition=paths.fill(paths.CLUSTERS_PART, table="composition"),
        contacts=paths.fill(paths.CLUSTERS_PART, table="contacts"),
        figure=report(
            paths.CLUSTERS_FIGURE,
            caption="../report/clusters.rst",
            category=chapter("Clusters and niches"),
            labels={"clusters": "{clusters}", "what": "{sample}"},
        ),
    log:
        "logs/clusters/describe_clusters/{clusters}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/clusters/describe_clusters/{clusters}/{cohort}/{sample}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["report_model"]),
        runtime=runtime(NEEDS["report_model"]),
    params:
        spec=spec(PLAN.clusters.spec),
        code=code_of("report"),
    script:
        "../../scripts/describe_clusters.py"


rule report_clusters:
    input:
        unpack(inputs(PLAN.clusters.parts)),
    output:
        agreement=paths.fill(paths.CLUSTERS_TABLE, table="agreement", ending="csv"),
        enrichment=paths.fill(paths.CLUSTERS_TABLE, table="enrichment", ending="csv"),
        composition=paths.fill(paths.CLUSTERS_TABLE, table="composition", ending="csv"),
        contacts=paths.fill(paths.CLUSTERS_TABLE, table="contacts", ending="csv"),
        md=paths.fill(paths.CLUSTERS_TABLE, table="clusters", ending="md"),
        html=shown(
            paths.CLUSTERS_TABLE,
            "Clusters and niches",
            "table",
            table="clusters",
            ending="html",
        ),
    log:
        "logs/clusters/report_clusters/{clusters}.log",
    benchmark:
        "benchmarks/clusters/report_clusters/{clusters}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    params:
        spec=spec(PLAN.clusters.spec),
        code=code_of("report"),
    script:
        "../../scripts/report_clusters.py"
