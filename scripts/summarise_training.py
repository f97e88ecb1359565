"""Adapter of rule summarise_training: what the models of fold `all` were trained on."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input, threads=1) as out:
        from histoloom.models.training_range import summarise_training

        summarise_training(
            spec=json.loads(snakemake.params.spec),
            experiment=json.loads(snakemake.params.experiment),
            sections=files.pop("sections"),
            files=files,
            out=out["training"],
        )


if "snakemake" in globals():
    main(snakemake)
