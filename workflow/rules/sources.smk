# READS   nothing but the outside world (or mirror_dir), and the config
# WRITES  {raw_dir}/{source}/...  the publisher's own layout;  {raw_dir}/simulated/{cohort}/...


rule fetch_file:
    output:
        file=f"{RAW}/{{source}}/{{file}}",
    log:
        "logs/sources/fetch_file/{source}/{file}.log",
    benchmark:
        "benchmarks/sources/fetch_file/{source}/{file}.tsv"
    wildcard_constraints:
        file=".+",
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["fetch_file"]),
        runtime=runtime(NEEDS["fetch_file"]),
        downloads=1,
    params:
        mirror=get_mirror,
    script:
        "../../scripts/fetch_file.py"


rule simulate_section:
    output:
        counts=f"{RAW}/simulated/{{cohort}}/data/ST-cnts/{{sample}}.tsv.gz",
        spots=f"{RAW}/simulated/{{cohort}}/data/ST-spotfiles/{{sample}}_selection.tsv",
        image=f"{RAW}/simulated/{{cohort}}/data/ST-imgs/{{sample}}/{{sample}}_HE.jpg",
        regions=f"{RAW}/simulated/{{cohort}}/data/ST-pat/lbl/{{sample}}_labeled_coordinates.tsv",
        truth=f"{RAW}/simulated/{{cohort}}/truth/{{sample}}_abundance.tsv",
    log:
        "logs/sources/simulate_section/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/sources/simulate_section/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["simulate_section"]),
        runtime=runtime(NEEDS["simulate_section"]),
    params:
        spec=spec(PLAN.sections.simulation_spec),
        row=spec(PLAN.sections.row),
        code=code_of("simulation"),
    script:
        "../../scripts/simulate_section.py"


rule simulate_xenium:
    output:
        counts=f"{RAW}/simulated/{{cohort}}/{{sample}}_outs/cell_feature_matrix.h5",
        cells=f"{RAW}/simulated/{{cohort}}/{{sample}}_outs/cells.parquet",
        cell_boundaries=f"{RAW}/simulated/{{cohort}}/{{sample}}_outs/cell_boundaries.parquet",
        nucleus_boundaries=f"{RAW}/simulated/{{cohort}}/{{sample}}_outs/nucleus_boundaries.parquet",
        experiment=f"{RAW}/simulated/{{cohort}}/{{sample}}_outs/experiment.xenium",
        image=f"{RAW}/simulated/{{cohort}}/{{sample}}_he_image.ome.tif",
        alignment=f"{RAW}/simulated/{{cohort}}/{{sample}}_he_imagealignment.csv",
        classes=f"{RAW}/simulated/{{cohort}}/truth/{{sample}}_classes.csv",
    log:
        "logs/sources/simulate_xenium/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/sources/simulate_xenium/{cohort}/{sample}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["simulate_section"]),
        runtime=runtime(NEEDS["simulate_section"]),
    params:
        spec=spec(PLAN.sections.simulation_spec),
        row=spec(PLAN.sections.row),
        code=code_of("simulation"),
    script:
        "../../scripts/simulate_xenium.py"


rule simulate_reference:
    output:
        h5ad=f"{RAW}/simulated/{{cohort}}/reference.h5ad",
    log:
        "logs/sources/simulate_reference/{cohort}.log",
    benchmark:
        "benchmarks/sources/simulate_reference/{cohort}.tsv"
    conda:
        "../../envs/core.yaml"
    threads: 1
    params:
        spec=spec(PLAN.sections.simulation_spec),
        code=code_of("simulation"),
    script:
        "../../scripts/simulate_reference.py"
