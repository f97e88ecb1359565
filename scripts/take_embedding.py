"""Adapter of rule take_embedding: gives an embedding that a pass has made its place."""

import json
import shutil
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    # A job killed before its outputs have their names finds everything again: so this goes last.
    scratch = Path("results/checkpoints/embeddings", *snakemake.wildcards)
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.embeddings import take_over

        take_over(
            spec=json.loads(snakemake.params.spec),
            manifest=Path(str(snakemake.input.manifest)),
            scratch=scratch,
            out=out["embeddings"],
            efficiency=out["efficiency"],
        )
    shutil.rmtree(scratch, ignore_errors=True)


if "snakemake" in globals():
    main(snakemake)
