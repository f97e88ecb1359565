"""Adapter of rule make_folds: who trains and who is tested, behind the leakage guard."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    spec, files = json.loads(snakemake.params.spec), paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.folds import make_folds

        make_folds(
            spec=spec,
            target=files["target"][0],
            splits=files.get("splits", []),
            seed=spec.get("seed", 0),
            out=out["folds"],
        )


if "snakemake" in globals():
    main(snakemake)
