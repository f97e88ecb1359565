"""Adapter of rule label_cells: a class for each cell of a section."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    threads = snakemake.threads
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input, threads=threads) as out:
        from histoloom.cells.labels import label_cells

        files = {role: files[0] for role, files in paths_by_role(snakemake.input.items()).items() if files}
        sample, spec = files.pop("sample"), json.loads(snakemake.params.spec)
        label_cells(spec=spec, sample=sample, files=files, out=out["labels"], steps=out["steps"], threads=threads)


if "snakemake" in globals():
    main(snakemake)
