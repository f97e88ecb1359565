"""Adapter of rule simulate_section: one section of a simulated cohort in her2st's raw layout."""

import json

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom_simulation import write_section

        params = snakemake.params
        write_section(spec=json.loads(params.spec), row=json.loads(params.row), out={k: out[k] for k in out.final})


if "snakemake" in globals():
    main(snakemake)
