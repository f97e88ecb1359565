"""Adapter of rule export_spatialdata: a section for other software."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.exports.spatialdata import write_spatialdata

        write_spatialdata(**{role: Path(path) for role, path in snakemake.input.items()}, out=out["zarr"])


if "snakemake" in globals():
    main(snakemake)
