"""Adapter of rule draw_experiment: the ladder of models and the bars by patient."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    metrics = paths_by_role(snakemake.input.items())["metrics"]
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.report.figures import draw_bars, draw_ladder

        experiment, spec = snakemake.wildcards.experiment, json.loads(snakemake.params.spec)
        draw_ladder(experiment=experiment, spec=spec, metrics=metrics, out=out["ladder"])
        draw_bars(experiment=experiment, spec=spec, metrics=metrics, out=out["bars"])


if "snakemake" in globals():
    main(snakemake)
