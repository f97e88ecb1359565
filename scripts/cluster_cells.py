"""Adapter of rule cluster_cells: clusters and niches of a section's cells."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input, threads=snakemake.threads) as out:
        from histoloom.cells.clustering import cluster_cells

        cluster_cells(
            spec=json.loads(snakemake.params.spec),
            cohort=snakemake.wildcards.cohort,
            sample=snakemake.wildcards.sample,
            files=paths_by_role(snakemake.input.items()),
            out=out["cells"],
        )


if "snakemake" in globals():
    main(snakemake)
