"""Adapter of rule import_embeddings: features that other software computed, for a batch of sections."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.embeddings.precomputed import import_embeddings

        files = paths_by_role(snakemake.input.items())
        import_embeddings(
            cohort=snakemake.wildcards.cohort,
            batch=snakemake.wildcards.batch,
            samples=files["samples"],
            tiles=files["tiles"],
            features=files["features"],
            spec=json.loads(snakemake.params.spec),
            out=out["embeddings"],
        )


if "snakemake" in globals():
    main(snakemake)
