"""Adapter of rule select_panel: the genes that each fold is scored on."""

import json
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.folds.panel import select_panel

        select_panel(
            spec=json.loads(snakemake.params.spec),
            target=Path(snakemake.input.target),
            folds=Path(snakemake.input.folds),
            out=out["panel"],
        )


if "snakemake" in globals():
    main(snakemake)
