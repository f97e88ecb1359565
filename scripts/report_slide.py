"""Adapter of rule report_slide: predictions over a slide, as table, GeoJSON for QuPath, and picture."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    names = snakemake.wildcards
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.report.slides import report_slide

        report_slide(
            predictions=Path(snakemake.input.predictions),
            section=Path(snakemake.input.sample),
            cohort=names.cohort,
            sample=names.sample,
            out={role: out[role] for role in out.final},
            crop=snakemake.params.crop,
        )


if "snakemake" in globals():
    main(snakemake)
