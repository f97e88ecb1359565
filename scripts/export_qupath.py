"""Adapter of rule export_qupath: a section for other software."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.exports.geojson import write_section

        files = {role: Path(path) for role, path in snakemake.input.items()}
        write_section(**files, out=out["geojson"], crop=snakemake.params.crop)


if "snakemake" in globals():
    main(snakemake)
