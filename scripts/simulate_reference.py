"""Adapter of rule simulate_reference: the single-cell reference of a simulated cohort."""

import json

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom_simulation import section_spec, write_reference

        write_reference(spec=section_spec(json.loads(snakemake.params.spec)), out=out["h5ad"])


if "snakemake" in globals():
    main(snakemake)
