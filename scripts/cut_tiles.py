"""Adapter of rule cut_tiles: the tiles of one section."""

import json
from pathlib import Path

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.tiles import cut_tiles

        cut_tiles(
            sample=Path(snakemake.input.sample),
            slide=next(iter(paths_by_role(snakemake.input.items())["slide"]), None),
            spec=json.loads(snakemake.params.spec),
            out=out["tiles"],
            picture=out["picture"],
        )


if "snakemake" in globals():
    main(snakemake)
