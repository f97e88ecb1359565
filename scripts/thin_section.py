"""Adapter of rule thin_section: half of a section's counts, for the attainable correlation."""

from pathlib import Path

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.labels.thinning import thin_section

        thin_section(
            sample=Path(snakemake.input.sample),
            half=int(snakemake.wildcards.half),
            seed=int(snakemake.wildcards.seed),
            out=out["sample"],
        )


if "snakemake" in globals():
    main(snakemake)
