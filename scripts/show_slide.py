"""Adapter of rule show_slide: predictions over a slide, as table, GeoJSON for QuPath, and picture."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    wildcards = snakemake.wildcards
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.report.figures import draw_apply
        from histoloom.report.geojson import write_geojson
        from histoloom.report.slides import write_slide_table

        which = {
            "predictions": Path(snakemake.input.predictions),
            "cohort": wildcards.cohort,
            "sample": wildcards.sample,
        }
        write_slide_table(**which, out=out["table"])
        write_geojson(**which, out=out["geojson"])
        draw_apply(**which, section=Path(snakemake.input.sample), out=out["figure"])


if "snakemake" in globals():
    main(snakemake)
