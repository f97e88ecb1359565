"""Adapter of rule embed_batch: features of all kept tiles of a batch of sections."""

import json
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    wildcards, inputs = snakemake.wildcards, snakemake.input
    with job(snakemake.log[0], snakemake.output.items(), threads=snakemake.threads) as out:
        from histoloom.embeddings import embed_batch

        embed_batch(
            cohort=wildcards.cohort,
            batch=wildcards.batch,
            samples=[Path(p) for p in inputs.samples],
            slides=[Path(p) for p in inputs.slides],
            tiles=[Path(p) for p in inputs.tiles],
            spec=json.loads(snakemake.params.spec),
            out=out["embeddings"],
            efficiency=out["efficiency"],
            scratch=Path("results/checkpoints/embeddings", *wildcards),
            threads=snakemake.threads,
            genes=next((Path(p) for p in inputs.genes), None),
        )


if "snakemake" in globals():
    main(snakemake)
