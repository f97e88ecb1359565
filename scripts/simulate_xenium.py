"""Adapter of rule simulate_xenium: one run of a simulated cohort in the layout of a Xenium bundle."""

import json

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom_simulation import write_xenium

        params = snakemake.params
        write_xenium(spec=json.loads(params.spec), row=json.loads(params.row), out={k: out[k] for k in out.final})


if "snakemake" in globals():
    main(snakemake)
