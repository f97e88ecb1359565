"""Adapter of rule score_leaks: a model's predictions under trainings with and without a leak."""

import json
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    wildcards, inputs = snakemake.wildcards, snakemake.input
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.metrics.leaks import score_leaks

        score_leaks(
            spec=json.loads(snakemake.params.spec),
            experiment=wildcards.experiment,
            model=wildcards.model,
            predictions=Path(inputs.predictions),
            target=Path(inputs.target),
            folds=Path(inputs.folds),
            out=out["metrics"],
        )


if "snakemake" in globals():
    main(snakemake)
