"""Adapter of rule export_qupath: a section for other software."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.exports.geojson import write_section

        write_section(**{role: Path(path) for role, path in snakemake.input.items()}, out=out["geojson"])


if "snakemake" in globals():
    main(snakemake)
