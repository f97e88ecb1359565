"""Adapter of rule fetch_file: one raw file, from the mirror or its publisher, verified."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), record=False) as out:
        from histoloom.sources import registry_entry
        from histoloom.sources.fetch import fetch_file

        source, file = snakemake.wildcards.source, snakemake.wildcards.file
        mirror = Path(snakemake.params.mirror) if snakemake.params.mirror else None
        fetch_file(entry=registry_entry(source, file), mirror=mirror, out=out["file"])


if "snakemake" in globals():
    main(snakemake)
