"""Adapter of rule place_outlines: outlines of cells or nuclei, placed on the slide."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.samples.polygons import place_outlines

        alignment = snakemake.input.get("alignment")
        place_outlines(
            boundaries=Path(snakemake.input.boundaries),
            experiment=Path(snakemake.input.experiment),
            alignment=Path(alignment) if alignment else None,
            out=out["outlines"],
            cohort=snakemake.wildcards.cohort,
            sample=snakemake.wildcards.sample,
        )


if "snakemake" in globals():
    main(snakemake)
