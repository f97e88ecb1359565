# READS   results/samples/, results/nuclei/, references and published tables (sources)
# WRITES  results/references/{reference}.h5ad, results/labels/{labels}/{cohort}.h5ad and its groups,
#         results/thinned/, results/efficiency/labels/


rule build_reference:
    input:
        unpack(get("reference_files", "reference")),
    output:
        reference="results/references/{reference}.h5ad",
    log:
        "logs/labels/build_reference/{reference}.log",
    benchmark:
        "benchmarks/labels/build_reference/{reference}.tsv"
    conda:
        "../../envs/labels.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("build_reference"),
        runtime=get_runtime("build_reference"),
    params:
        spec=get_spec("reference_spec", "reference"),
        version=version_of("references"),
    script:
        "../../scripts/build_reference.py"


# One job makes the fits that share imports and a reference; see `fits_per_job` of a label method.
rule label_groups:
    input:
        unpack(get("label_job_inputs", "labels", "cohort", "part")),
    output:
        labels=directory("results/labels/{labels}/{cohort}/{part}"),
        efficiency="results/efficiency/labels/{labels}/{cohort}/{part}.json",
    log:
        "logs/labels/label_groups/{labels}/{cohort}/{part}.log",
    benchmark:
        "benchmarks/labels/label_groups/{labels}/{cohort}/{part}.tsv"
    conda:
        "../../envs/labels.yaml"
    threads: get("fit_threads", "labels")
    resources:
        mem_mb=get_memory("label_groups", "label_method", "labels"),
        runtime=get_runtime("label_groups", "label_method", "labels"),
        gpu=get("label_gpu", "labels"),
    params:
        spec=get_spec("label_spec", "labels"),
        fits=get_spec("label_fits", "labels", "cohort", "part"),
        version=version_of("labels"),
    script:
        "../../scripts/label_groups.py"


rule gather_labels:
    input:
        parts=get("label_files", "labels", "cohort"),
    output:
        labels="results/labels/{labels}/{cohort}.h5ad",
    log:
        "logs/labels/gather_labels/{labels}/{cohort}.log",
    benchmark:
        "benchmarks/labels/gather_labels/{labels}/{cohort}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("gather_labels"),
        runtime=get_runtime("gather_labels"),
    params:
        spec=get_spec("labels_entry", "labels"),
        fits=get_spec("label_jobs", "labels", "cohort"),
        version=version_of("labels"),
    script:
        "../../scripts/gather_labels.py"


# Labels named {labels}-half0 and {labels}-half1 are the same method on these sections; see the plan.
rule thin_section:
    input:
        sample="results/samples/{cohort}/{sample}.h5ad",
    output:
        sample="results/thinned/{half}.{seed}/{cohort}/{sample}.h5ad",
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
        mem_mb=get_memory("thin_section"),
        runtime=get_runtime("thin_section"),
    params:
        code=code_of("thinning"),
    script:
        "../../scripts/thin_section.py"
