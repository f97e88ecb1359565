"""Adapter of rules train_model (all folds and seeds of one model) and train_fold (one fold and training seed)."""

import json

from histoloom.jobs import job, paths_by_role
from histoloom.paths import scratch_of


def main(snakemake):
    experiment, wildcards = json.loads(snakemake.params.experiment), dict(snakemake.wildcards.items())
    scratch = scratch_of(snakemake.output.model)
    with job(
        snakemake.log[0], snakemake.output.items(), snakemake.input, seed=experiment["seed"], threads=1, scratch=scratch
    ) as out:
        from histoloom.models import fit_models

        fit_models(
            spec=json.loads(snakemake.params.spec),
            experiment=experiment,
            files=paths_by_role(snakemake.input.items()),
            out=out["model"],
            efficiency=out["efficiency"],
            scratch=scratch,
            fold=wildcards.get("fold"),
            seed=int(wildcards["seed"]) if "seed" in wildcards else None,
        )


if "snakemake" in globals():
    main(snakemake)
