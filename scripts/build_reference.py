"""Adapter of rule build_reference: a filtered single-cell reference and its signatures."""

import json

from histoloom.jobs import job, paths_by_role
from histoloom.paths import scratch_of


def main(snakemake):
    spec = json.loads(snakemake.params.spec)
    seed = spec.get("seed", 0)
    threads = spec.get("fit_threads", 1)
    scratch = scratch_of(snakemake.output.reference)
    with job(
        snakemake.log[0], snakemake.output.items(), snakemake.input, seed=seed, threads=threads, scratch=scratch
    ) as out:
        from histoloom.references import build_reference

        build_reference(
            spec=spec,
            files=paths_by_role(snakemake.input.items()),
            out=out["reference"],
            seed=seed,
            threads=threads,
            scratch=scratch,
        )


if "snakemake" in globals():
    main(snakemake)
