"""Adapter of rule read_section: raw files of one section to the canonical sample."""

import json
from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.samples import read_section

        spec = json.loads(snakemake.params.spec)
        read_section(
            source=spec["source"],
            cohort=snakemake.wildcards.cohort,
            row=json.loads(snakemake.params.row),
            spec=spec,
            files={role: Path(path) for role, path in snakemake.input.items()},
            out=out["sample"],
            picture=out["picture"],
        )


if "snakemake" in globals():
    main(snakemake)
