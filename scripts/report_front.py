"""Adapter of rule report_front: the front page of the report."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.report.front import write_front

        write_front(entries=json.loads(snakemake.params.spec), files=files, out=out["html"])


if "snakemake" in globals():
    main(snakemake)
