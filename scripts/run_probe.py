"""Adapter of rule run_probe: one encoder, one way to choose alpha, all folds."""

import json
from pathlib import Path

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    spec, inputs = json.loads(snakemake.params.spec), snakemake.input
    with job(snakemake.log[0], snakemake.output.items(), seed=spec["seed"], threads=1) as out:
        from histoloom.probe import run_probe

        run_probe(
            spec=spec,
            encoder=snakemake.wildcards.model,
            alpha=snakemake.wildcards.variant,
            target=Path(inputs.target),
            folds=Path(inputs.folds),
            panel=Path(inputs.panel),
            embeddings=paths_by_role(inputs.items(), "embeddings_"),
            out=out["predictions"],
        )


if "snakemake" in globals():
    main(snakemake)
