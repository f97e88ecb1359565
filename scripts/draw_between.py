"""Adapter of rule draw_between: the same predictions aggregated in four ways."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.report.between import draw_between

        draw_between(
            experiment=snakemake.wildcards.experiment,
            spec=json.loads(snakemake.params.spec),
            metrics=files["metrics"],
            out=out["figure"],
        )


if "snakemake" in globals():
    main(snakemake)
