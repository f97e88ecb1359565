"""Adapter of rule report_models: all models of an experiment on one section, and their colocalization maps."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files, models = paths_by_role(snakemake.input.items()), json.loads(snakemake.params.models)
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.report.side_by_side import draw_coloc_models, draw_models

        experiment = snakemake.wildcards.experiment
        draw_models(
            experiment=experiment,
            models=dict(zip(models, files["predictions"], strict=True)),
            samples=files["samples"],
            target=files["target"][0],
            folds=files["folds"][0],
            out=out["maps"],
        )
        metrics = dict(zip(models, files["metrics"], strict=True))
        draw_coloc_models(experiment=experiment, models=metrics, out=out["colocalization"])


if "snakemake" in globals():
    main(snakemake)
