"""Adapter of rule predict_model: predictions for every held-out observation."""

import json
from pathlib import Path

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), threads=1) as out:
        from histoloom.models import predict_model

        predict_model(
            model=Path(snakemake.input.model),
            spec=json.loads(snakemake.params.spec),
            experiment=json.loads(snakemake.params.experiment),
            target=Path(snakemake.input.target),
            folds=Path(snakemake.input.folds),
            embeddings=paths_by_role(snakemake.input.items(), "embeddings_"),
            variant=snakemake.wildcards.variant,
            out=out["predictions"],
        )


if "snakemake" in globals():
    main(snakemake)
