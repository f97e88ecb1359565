"""Adapter of rule pack_tiles: a section's kept tiles, decoded once for all models on pixels."""

import json
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    inputs = snakemake.input
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input, threads=1) as out:
        from histoloom.inputs.pixels import pack_tiles

        pack_tiles(
            sample=Path(inputs.sample),
            slide=Path(inputs.slide),
            tiles=Path(inputs.tiles),
            spec=json.loads(snakemake.params.spec),
            out=out["pixels"],
            index=out["index"],
        )


if "snakemake" in globals():
    main(snakemake)
