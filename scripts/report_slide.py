"""Adapter of rule report_slide: predictions over a slide, as table, GeoJSON for QuPath, and picture."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    names = snakemake.wildcards
    given = snakemake.input
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.metrics.held_out import held_out_of_bundle, held_out_scores
        from histoloom.report.slides import report_slide

        bundle, metrics = given.get("bundle"), given.get("metrics")
        held_out = held_out_of_bundle(Path(bundle)) if bundle else held_out_scores(Path(metrics))
        report_slide(
            predictions=Path(snakemake.input.predictions),
            section=Path(snakemake.input.sample),
            cohort=names.cohort,
            sample=names.sample,
            out={role: out[role] for role in out.final},
            crop=snakemake.params.crop,
            held_out=held_out,
        )


if "snakemake" in globals():
    main(snakemake)
