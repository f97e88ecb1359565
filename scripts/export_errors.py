"""Adapter of rule export_errors: a section's hits, false positives and misses for QuPath."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.exports.geojson import write_cases
        from histoloom.report.errors import TILE_UM, read_cases

        cases = read_cases(Path(snakemake.input.cases))
        write_cases(cases=cases, sample=Path(snakemake.input.sample), out=out["geojson"], side_um=TILE_UM)


if "snakemake" in globals():
    main(snakemake)
