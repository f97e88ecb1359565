"""Adapter of rule gather_efficiency: one record of a model that was trained fold by fold."""

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input, threads=1) as out:
        from histoloom.efficiency import gather

        gather(paths_by_role(snakemake.input.items())["folds"], out["efficiency"])


if "snakemake" in globals():
    main(snakemake)
