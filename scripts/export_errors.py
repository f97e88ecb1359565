"""Adapter of rule export_errors: a section's hits, false positives and misses for QuPath."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.exports.geojson import write_cases
        from histoloom.report.errors import TILE_UM, read_cases

        cases = read_cases(Path(snakemake.input.cases))
        sample, crop = Path(snakemake.input.sample), snakemake.params.crop
        write_cases(cases=cases, sample=sample, out=out["geojson"], side_um=TILE_UM, crop=crop)


if "snakemake" in globals():
    main(snakemake)
