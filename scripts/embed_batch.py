"""Adapter of the rules that embed a batch of sections, with one encoder or a group of them."""

import json

from histoloom.jobs import job, paths_by_role
from histoloom.paths import scratch_of


def main(snakemake):
    inputs, files = paths_by_role(snakemake.input.items()), paths_by_role(snakemake.output.items())
    outputs = {f"{role}{i}": path for role, paths in files.items() for i, path in enumerate(paths)}
    with job(snakemake.log[0], outputs.items(), snakemake.input, threads=snakemake.threads) as out:
        from histoloom.embeddings import EncoderSpec, embed_batch

        numbers = range(len(files["embeddings"]))
        embed_batch(
            cohort=snakemake.wildcards.cohort,
            batch=snakemake.wildcards.batch,
            samples=inputs["samples"],
            slides=inputs["slides"],
            tiles=inputs["tiles"],
            specs=[EncoderSpec.from_json(entry) for entry in json.loads(snakemake.params.specs)],
            out=[out[f"embeddings{i}"] for i in numbers],
            efficiency=[out[f"efficiency{i}"] for i in numbers],
            scratch=[scratch_of(path) for path in files["embeddings"]],
            threads=snakemake.threads,
            genes=next(iter(inputs.get("genes", [])), None),
        )


if "snakemake" in globals():
    main(snakemake)
