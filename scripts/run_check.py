"""Adapter of rule run_check: labels against truth, other labels or a pathologist's regions."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.checks.base import run_check

        run_check(
            spec=json.loads(snakemake.params.spec),
            labels=files["labels"],
            against=files["against"],
            out=out["metrics"],
        )


if "snakemake" in globals():
    main(snakemake)
