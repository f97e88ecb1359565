"""Adapter of rule label_groups: labels of groups of sections, one or several fits in one job."""

import json

from histoloom.jobs import job, paths_by_role
from histoloom.paths import scratch_of


def main(snakemake):
    files, spec = paths_by_role(snakemake.input.items()), json.loads(snakemake.params.spec)
    threads = spec.get("fit_threads", 1)
    scratch = scratch_of(snakemake.output.labels)
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input, threads=threads, scratch=scratch) as out:
        from histoloom.labels import LabelTask, label_groups

        tasks = [
            LabelTask(
                spec=spec,
                cohort=snakemake.wildcards.cohort,
                group=group,
                seed=seed,
                samples=[p for p in files["samples"] if p.stem in members],
                reference=next(iter(files["reference"]), None),
                tables=files["tables"],
                nuclei=[p for p in files["nuclei"] if p.stem in members],
                genes=next(iter(files["genes"]), None),
                scratch=scratch,
                threads=threads,
                granted_mb=snakemake.resources.get("mem_mb"),
            )
            for group, seed, members in json.loads(snakemake.params.fits)
        ]
        label_groups(tasks, out["labels"], out["efficiency"])


if "snakemake" in globals():
    main(snakemake)
