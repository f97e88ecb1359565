"""Adapter of rule embed_pass: features of a batch of sections by several encoders, the pixels read once."""

import json
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    wildcards, inputs = snakemake.wildcards, snakemake.input
    specs = json.loads(snakemake.params.specs)
    path = f"{wildcards.tiles}/{{}}/{wildcards.cohort}/{wildcards.batch}"
    paths = {spec["name"]: path.format(spec["name"]) for spec in specs}
    with job(snakemake.log[0], snakemake.output.items(), threads=snakemake.threads) as out:
        from histoloom.embeddings import embed_together

        embed_together(
            cohort=wildcards.cohort,
            batch=wildcards.batch,
            samples=[Path(p) for p in inputs.samples],
            slides=[Path(p) for p in inputs.slides],
            tiles=[Path(p) for p in inputs.tiles],
            specs=specs,
            finished={
                name: (Path(f"results/embeddings/{p}.h5"), Path(f"results/efficiency/embeddings/{p}.json"))
                for name, p in paths.items()
            },
            scratch={name: Path("results/checkpoints/embeddings", p) for name, p in paths.items()},
            out=out["manifest"],
            threads=snakemake.threads,
        )


if "snakemake" in globals():
    main(snakemake)
