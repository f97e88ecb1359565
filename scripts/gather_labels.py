"""Adapter of rule gather_labels: the labels of a cohort from its groups and seeds."""

import json
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    folders = {Path(p).name: Path(p) for p in snakemake.input.parts}
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.labels import gather_labels

        gather_labels(
            spec=json.loads(snakemake.params.spec),
            cohort=snakemake.wildcards.cohort,
            groups=[
                folders[part] / f"{group}.{seed}.h5ad"
                for part, fits in json.loads(snakemake.params.fits).items()
                for group, seed, _ in fits
            ],
            out=out["labels"],
        )


if "snakemake" in globals():
    main(snakemake)
