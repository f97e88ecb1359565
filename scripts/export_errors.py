"""Adapter of rule export_errors: a section's hits, false positives and misses for QuPath."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        import pandas as pd

        from histoloom.report.errors import write_error_geojson

        cases = pd.read_csv(snakemake.input.cases, dtype={"obs_id": str, "sample": str, "patient": str, "cohort": str})
        write_error_geojson(cases=cases, sample=Path(snakemake.input.sample), out=out["geojson"])


if "snakemake" in globals():
    main(snakemake)
