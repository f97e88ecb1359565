"""Adapter of rule represent_cells: projections of all cells by the contrastive heads of one fold."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input, threads=1) as out:
        from histoloom.models.represent import represent_cells

        represent_cells(
            model=files.pop("model")[0],
            spec=json.loads(snakemake.params.spec),
            experiment=json.loads(snakemake.params.experiment),
            files=files,
            out=out["representations"],
            retrieval=out["retrieval"],
        )


if "snakemake" in globals():
    main(snakemake)
