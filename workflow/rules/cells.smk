# READS   results/samples/, the user's references and nuclei
# WRITES  results/cell_labels/{cell_labels}/{cohort}/{sample}.csv        cell_id, label, confidence;
#         results/cell_labels/{cell_labels}/{cohort}/{sample}.steps.csv  cells left after each step


rule label_cells:
    input:
        unpack(inputs(PLAN.cell_labels.inputs)),
    output:
        labels=paths.CELL_LABELS,
        steps=paths.CELL_LABELS_STEPS,
    log:
        "logs/cells/label_cells/{cell_labels}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/cells/label_cells/{cell_labels}/{cohort}/{sample}.tsv"
    conda:
        "../../envs/cells.yaml"
    threads: fact(PLAN.cell_labels.kind, "threads")
    resources:
        mem_mb=memory(PLAN.cell_labels.kind),
        runtime=runtime(PLAN.cell_labels.kind),
    params:
        spec=spec(PLAN.cell_labels.spec),
        version=version_of("cell_labels"),
    script:
        "../../scripts/label_cells.py"
