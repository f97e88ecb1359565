# READS   results/samples/, results/nuclei/, references and published tables (sources)
# WRITES  results/references/{reference}.h5ad, results/labels/{labels}/{cohort}.h5ad and its groups,
#         results/thinned/, results/efficiency/labels/


rule build_reference:
    input:
        unpack(inputs(PLAN.labels.reference_files)),
    output:
        reference=paths.REFERENCE,
    log:
        "logs/labels/build_reference/{reference}.log",
    benchmark:
        "benchmarks/labels/build_reference/{reference}.tsv"
    conda:
        "../../envs/labels.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["build_reference"]),
        runtime=runtime(NEEDS["build_reference"]),
    params:
        spec=spec(PLAN.labels.reference_spec),
        version=version_of("references"),
    script:
        "../../scripts/build_reference.py"


# One job makes the fits that share imports and a reference; see `fits_per_job` of a label method.
rule label_groups:
    input:
        unpack(inputs(PLAN.labels.job_inputs)),
    output:
        labels=directory(paths.LABELS_PART),
        efficiency=paths.LABELS_EFFICIENCY,
    log:
        "logs/labels/label_groups/{labels}/{cohort}/{part}.log",
    benchmark:
        "benchmarks/labels/label_groups/{labels}/{cohort}/{part}.tsv"
    conda:
        "../../envs/labels.yaml"
    threads: inputs(PLAN.labels.threads)
    resources:
        mem_mb=memory(PLAN.labels.kind),
        runtime=runtime(PLAN.labels.kind),
        gpu=fact(PLAN.labels.kind, "gpu"),
    params:
        spec=spec(PLAN.labels.spec),
        fits=spec(PLAN.labels.fits),
        version=version_of("labels"),
    script:
        "../../scripts/label_groups.py"


rule gather_labels:
    input:
        parts=inputs(PLAN.labels.part_files),
    output:
        labels=paths.LABELS,
    log:
        "logs/labels/gather_labels/{labels}/{cohort}.log",
    benchmark:
        "benchmarks/labels/gather_labels/{labels}/{cohort}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["gather_labels"]),
        runtime=runtime(NEEDS["gather_labels"]),
    params:
        spec=spec(PLAN.labels.entry),
        fits=spec(PLAN.labels.jobs),
        version=version_of("labels"),
    script:
        "../../scripts/gather_labels.py"


# Labels named {labels}-half0 and {labels}-half1 are the same method on these sections; see the plan.
rule thin_section:
    input:
        sample=paths.SAMPLE,
    output:
        sample=paths.THINNED,
    log:
        "logs/labels/thin_section/{half}.{seed}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/labels/thin_section/{half}.{seed}/{cohort}/{sample}.tsv"
    wildcard_constraints:
        half="[01]",
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["thin_section"]),
        runtime=runtime(NEEDS["thin_section"]),
    params:
        code=code_of("thinning"),
    script:
        "../../scripts/thin_section.py"
