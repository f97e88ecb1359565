"""Adapter of rule report_model: maps over a section, ranks of types, colocalization, and errors as tiles."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files, names = paths_by_role(snakemake.input.items()), snakemake.wildcards
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.report.experiment import report_model

        report_model(
            experiment=names.experiment,
            model=names.model,
            title=json.loads(snakemake.params.title),
            files=files,
            out={role: out[role] for role in out.final},
        )


if "snakemake" in globals():
    main(snakemake)
