"""Adapter of rule make_bundle: a trained model as a folder that can be handed on."""

import json
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input, threads=1) as out:
        from histoloom.report.bundle import write_bundle

        write_bundle(
            models=[Path(path) for path in snakemake.input.models],
            training=Path(snakemake.input.training),
            metrics=Path(snakemake.input.metrics),
            spec=json.loads(snakemake.params.spec),
            out=out["bundle"],
        )


if "snakemake" in globals():
    main(snakemake)
