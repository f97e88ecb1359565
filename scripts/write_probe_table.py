"""Adapter of rule write_probe_table: encoders by what they predict, as a table and a figure."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.report.probes import write_probe_table

        write_probe_table(
            spec=json.loads(snakemake.params.spec),
            metrics=paths_by_role(snakemake.input.items())["metrics"],
            out={role: out[role] for role in out.final},
        )


if "snakemake" in globals():
    main(snakemake)
