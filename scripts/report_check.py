"""Adapter of rule report_check: the figure of a check."""

import json
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.checks.base import draw_check

        draw_check(spec=json.loads(snakemake.params.spec), metrics=Path(snakemake.input.metrics), out=out["figure"])


if "snakemake" in globals():
    main(snakemake)
