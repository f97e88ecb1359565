"""Adapter of rule predict_model: predictions for every held-out observation."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input, threads=1) as out:
        from histoloom.models import predict_models

        predict_models(
            models=files.pop("models"),
            spec=json.loads(snakemake.params.spec),
            experiment=json.loads(snakemake.params.experiment),
            files=files,
            variant=snakemake.wildcards.variant,
            out=out["predictions"],
        )


if "snakemake" in globals():
    main(snakemake)
