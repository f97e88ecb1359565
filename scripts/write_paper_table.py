"""Adapter of rule write_paper_table: one of a paper's tables next to what it published."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files, number = paths_by_role(snakemake.input.items()), snakemake.wildcards.number
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.report.paper_tables import write_paper_tables

        write_paper_tables(
            spec=json.loads(snakemake.params.spec),
            metrics=files["metrics"],
            efficiency=files["efficiency"],
            published_dir=files["published"][0].parent,
            out={f"table{number}_{role}": out[role] for role in out.final},
        )


if "snakemake" in globals():
    main(snakemake)
