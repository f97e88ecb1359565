"""Adapter of rule score_model: a model's predictions on held-out observations."""

import json
from pathlib import Path

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    wildcards, inputs = snakemake.wildcards, snakemake.input
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.metrics import score_predictions

        score_predictions(
            spec=json.loads(snakemake.params.spec),
            experiment=wildcards.experiment,
            model=wildcards.model,
            predictions=paths_by_role(inputs.items())["predictions"],
            target=Path(inputs.target),
            folds=Path(inputs.folds),
            out=out["metrics"],
            leakage=snakemake.params.get("leakage", False),
        )


if "snakemake" in globals():
    main(snakemake)
