"""Adapter of rule export_cells: cells with classes and embeddings for other software."""

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.cells.export import export_cells

        files = paths_by_role(snakemake.input.items())
        export_cells(files=files, out={role: out[role] for role in out.final}, crop=snakemake.params.crop)


if "snakemake" in globals():
    main(snakemake)
