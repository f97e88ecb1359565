"""Adapter of rule count_nuclei: nuclei under each spot of a section."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.nuclei import count_nuclei

        count_nuclei(spec={}, sample=Path(snakemake.input.sample), slide=Path(snakemake.input.slide), out=out["nuclei"])


if "snakemake" in globals():
    main(snakemake)
