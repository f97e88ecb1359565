"""Adapter of rule train_model: all folds and seeds of one model."""

import json
from pathlib import Path

from histoloom.jobs import job, paths_by_role
from histoloom.paths import scratch_of


def main(snakemake):
    experiment = json.loads(snakemake.params.experiment)
    scratch = scratch_of(snakemake.output.model)
    with job(snakemake.log[0], snakemake.output.items(), seed=experiment["seed"], threads=1, scratch=scratch) as out:
        from histoloom.models import train_model

        train_model(
            spec=json.loads(snakemake.params.spec),
            experiment=experiment,
            target=Path(snakemake.input.target),
            folds=Path(snakemake.input.folds),
            embeddings=paths_by_role(snakemake.input.items(), "embeddings_"),
            out=out["model"],
            efficiency=out["efficiency"],
            threads=1,
            scratch=scratch,
        )


if "snakemake" in globals():
    main(snakemake)
