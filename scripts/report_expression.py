"""Adapter of rule report_expression: predictions of genes scored three ways, and what they look like."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.report.expression import report_expression

        report_expression(
            spec=json.loads(snakemake.params.spec),
            metrics=files["metrics"],
            ceilings=files.get("ceilings", []),
            predictions=files.get("predictions", []),
            target=files["target"][0],
            folds=files["folds"][0],
            samples=files["samples"],
            out={role: out[role] for role in out.final},
        )


if "snakemake" in globals():
    main(snakemake)
