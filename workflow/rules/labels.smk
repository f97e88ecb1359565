# READS   results/samples/, references and published tables (sources)
# WRITES  results/references/{reference}.h5ad, results/labels/{labels}/{cohort}.h5ad and its groups


rule build_reference:
    input:
        unpack(get_reference_files),
    output:
        reference="results/references/{reference}.h5ad",
    log:
        "logs/labels/build_reference/{reference}.log",
    benchmark:
        "benchmarks/labels/build_reference/{reference}.tsv"
    params:
        spec=get_reference_spec,
        version=STAGE_VERSIONS["references"],
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
    conda:
        "../../envs/labels.yaml"
    script:
        "../../scripts/build_reference.py"


rule label_group:
    input:
        unpack(get_label_files),
    output:
        labels="results/labels/{labels}/{cohort}/{group}.{seed}.h5ad",
        efficiency="results/efficiency/labels/{labels}/{cohort}/{group}.{seed}.json",
    log:
        "logs/labels/label_group/{labels}/{cohort}/{group}.{seed}.log",
    benchmark:
        "benchmarks/labels/label_group/{labels}/{cohort}/{group}.{seed}.tsv"
    params:
        spec=get_label_spec,
        version=STAGE_VERSIONS["labels"],
    threads: get_fit_threads
    resources:
        mem_mb=8000,
        runtime=480,
        gpu=get_label_gpu,
    conda:
        "../../envs/labels.yaml"
    script:
        "../../scripts/label_group.py"


rule gather_labels:
    input:
        groups=get_label_groups,
    output:
        labels="results/labels/{labels}/{cohort}.h5ad",
    log:
        "logs/labels/gather_labels/{labels}/{cohort}.log",
    benchmark:
        "benchmarks/labels/gather_labels/{labels}/{cohort}.tsv"
    params:
        spec=get_label_spec,
        version=STAGE_VERSIONS["labels"],
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    conda:
        "../../envs/core.yaml"
    script:
        "../../scripts/gather_labels.py"
