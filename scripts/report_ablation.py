"""Adapter of rule report_ablation: the same model on encoders alone and together."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.report.ablation import report_ablation

        report_ablation(
            experiment=snakemake.wildcards.experiment,
            spec=json.loads(snakemake.params.spec),
            metrics=files["metrics"],
            out={role: out[role] for role in out.final},
        )


if "snakemake" in globals():
    main(snakemake)
