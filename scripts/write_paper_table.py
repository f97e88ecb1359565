"""Adapter of rule write_paper_table: one of a paper's tables next to what it published."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.report.paper_tables import write_paper_table

        write_paper_table(
            spec=json.loads(snakemake.params.spec),
            number_of_table=int(snakemake.wildcards.number),
            metrics=files["metrics"],
            efficiency=files["efficiency"],
            published_dir=files["published"][0].parent,
            out={role: out[role] for role in out.final},
        )


if "snakemake" in globals():
    main(snakemake)
