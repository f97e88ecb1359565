"""Adapter of rule describe_clusters: a section's clusters and niches against labels, as tables and a figure."""

import json
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.report.clusters import describe_clusters

        describe_clusters(
            spec=json.loads(snakemake.params.spec),
            cells=Path(snakemake.input.cells),
            sample=Path(snakemake.input.sample),
            out={role: out[role] for role in out.final},
        )


if "snakemake" in globals():
    main(snakemake)
