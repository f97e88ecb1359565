"""Adapter of rule gather_labels: the labels of a cohort from its groups and seeds."""

import json
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.labels import gather_labels

        gather_labels(
            spec=json.loads(snakemake.params.spec),
            cohort=snakemake.wildcards.cohort,
            groups=[Path(p) for p in snakemake.input.groups],
            out=out["labels"],
        )


if "snakemake" in globals():
    main(snakemake)
