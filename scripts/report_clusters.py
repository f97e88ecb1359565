"""Adapter of rule report_clusters: clusters and niches of all sections on a page."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.report.clusters import report_clusters

        report_clusters(
            spec=json.loads(snakemake.params.spec),
            tables=paths_by_role(snakemake.input.items()),
            out={role: out[role] for role in out.final},
        )


if "snakemake" in globals():
    main(snakemake)
