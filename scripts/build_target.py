"""Adapter of rule build_target: what is predicted, where tissue, tile and label meet."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.targets import build_target

        files = paths_by_role(snakemake.input.items())
        build_target(
            spec=json.loads(snakemake.params.spec),
            samples=files["samples"],
            tiles=files["tiles"],
            labels=files["labels"],
            truth=files["truth"],
            out=out["target"],
        )


if "snakemake" in globals():
    main(snakemake)
