"""Adapter of rule make_folds: who trains and who is tested, behind the leakage guard."""

import json
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    spec = json.loads(snakemake.params.spec)
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.folds import make_folds

        make_folds(spec=spec, target=Path(snakemake.input.target), seed=spec.get("seed", 0), out=out["folds"])


if "snakemake" in globals():
    main(snakemake)
