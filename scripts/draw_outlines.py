"""Adapter of rule draw_outlines: tiles on the outlines of cells and nuclei."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.tiles.outlines import draw_outlines

        draw_outlines(**{role: Path(path) for role, path in snakemake.input.items()}, out=out["picture"])


if "snakemake" in globals():
    main(snakemake)
