"""Adapter of rule report_attainable: CC of an experiment's models and its ceiling."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.report.attainable import report_attainable

        report_attainable(
            spec=json.loads(snakemake.params.spec),
            metrics=files["metrics"],
            ceilings=files["ceilings"],
            out={role: out[role] for role in out.final},
        )


if "snakemake" in globals():
    main(snakemake)
