"""Adapter of rule label_group: labels of one group of sections, one optimiser seed."""

import json
from pathlib import Path

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    wildcards, files = snakemake.wildcards, paths_by_role(snakemake.input.items())
    spec = json.loads(snakemake.params.spec)
    seed, threads = int(wildcards.seed), spec.get("fit_threads", 1)
    scratch = Path("results/checkpoints/labels", *wildcards)
    with job(snakemake.log[0], snakemake.output.items(), seed=seed, threads=threads, scratch=scratch) as out:
        from histoloom.labels import label_group

        label_group(
            spec=spec,
            cohort=wildcards.cohort,
            group=wildcards.group,
            seed=seed,
            samples=files["samples"],
            reference=next(iter(files["reference"]), None),
            tables=files["tables"],
            nuclei=files["nuclei"],
            genes=next(iter(files["genes"]), None),
            out=out["labels"],
            efficiency=out["efficiency"],
            scratch=scratch,
            threads=threads,
            granted_mb=snakemake.resources.get("mem_mb"),
        )


if "snakemake" in globals():
    main(snakemake)
