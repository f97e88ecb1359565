# READS   results/predictions/, results/labels/, results/samples/, results/metrics/
# WRITES  results/viewer/  one HTML file per section, and the thumbnail that the report shows


rule write_viewer:
    input:
        unpack(inputs(PLAN.viewers.files)),
    output:
        html=paths.VIEWER,
        thumbnail=report(
            paths.VIEWER_THUMBNAIL,
            caption="../report/viewer.rst",
            category=chapter("Viewer"),
            labels={
                "experiment": "{experiment}",
                "model": "{model}",
                "section": "{cohort} {sample}",
            },
        ),
    log:
        "logs/viewer/write_viewer/{experiment}/{model}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/viewer/write_viewer/{experiment}/{model}/{cohort}/{sample}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["write_viewer"]),
        runtime=runtime(NEEDS["write_viewer"]),
    params:
        spec=canonical_json(PLAN.config.viewer),
        code=code_of("viewer"),
    script:
        "../../scripts/write_viewer.py"


rule write_labels_viewer:
    input:
        labels=paths.LABELS,
        sample=paths.SAMPLE,
    output:
        html=paths.VIEWER_LABELS,
        thumbnail=report(
            paths.VIEWER_LABELS_THUMBNAIL,
            caption="../report/viewer.rst",
            category=chapter("Viewer"),
            labels={
                "experiment": "labels",
                "model": "{labels}",
                "section": "{cohort} {sample}",
            },
        ),
    log:
        "logs/viewer/write_labels_viewer/{labels}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/viewer/write_labels_viewer/{labels}/{cohort}/{sample}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["write_viewer"]),
        runtime=runtime(NEEDS["write_viewer"]),
    params:
        spec=canonical_json(PLAN.config.viewer),
        code=code_of("viewer"),
    script:
        "../../scripts/write_viewer.py"
