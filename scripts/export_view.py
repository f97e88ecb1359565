"""Adapter of rules export_predictions and export_labels: a section's predictions or labels for other software."""

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = {role: paths[0] for role, paths in paths_by_role(snakemake.input.items()).items()}
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.viewer.export import write_h5ad
        from histoloom.viewer.view import view_labels, view_predictions

        view = view_labels(**files) if "labels" in files else view_predictions(**files)
        write_h5ad(view, files["sample"], out["h5ad"])


if "snakemake" in globals():
    main(snakemake)
