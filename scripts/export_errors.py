"""Adapter of rule export_errors: a section's hits, false positives and misses for QuPath."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        import pandas as pd

        from histoloom.report.errors import write_error_geojson

        names = dict.fromkeys(("obs_id", "sample", "patient", "cohort"), str)
        # "NA" and "nan" are names of sections; only an empty cell is missing.
        cases = pd.read_csv(snakemake.input.cases, dtype=names, keep_default_na=False, na_values=[""])
        write_error_geojson(cases=cases, sample=Path(snakemake.input.sample), out=out["geojson"])


if "snakemake" in globals():
    main(snakemake)
