"""Adapter of rule report_experiment: summary, baseline comparison, patients one by one, pooled values split."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.report.experiment import report_experiment

        report_experiment(
            experiment=snakemake.wildcards.experiment,
            spec=json.loads(snakemake.params.spec),
            metrics=files["metrics"],
            efficiency=files["efficiency"],
            out={role: out[role] for role in out.final},
        )


if "snakemake" in globals():
    main(snakemake)
