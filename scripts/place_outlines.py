"""Adapter of rule place_outlines: outlines of cells or nuclei, placed on the slide."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.samples.polygons import write_polygons
        from histoloom.samples.xenium import read_experiment

        alignment = snakemake.input.get("alignment")
        write_polygons(
            boundaries=Path(snakemake.input.boundaries),
            pixel_size_um=read_experiment(Path(snakemake.input.experiment))["pixel_size"],
            alignment=Path(alignment) if alignment else None,
            out=out["outlines"],
            cohort=snakemake.wildcards.cohort,
            sample=snakemake.wildcards.sample,
        )


if "snakemake" in globals():
    main(snakemake)
