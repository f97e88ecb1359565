"""Adapter of rule build_target: what is predicted, for observations with tissue, tile and label."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.targets import make_target

        make_target(
            spec=json.loads(snakemake.params.spec), files=paths_by_role(snakemake.input.items()), out=out["target"]
        )


if "snakemake" in globals():
    main(snakemake)
