"""Adapter of rule score_probe: an encoder's probes, in the benchmark's aggregation and in ours."""

import json
from pathlib import Path

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.metrics.expression import score_probe

        score_probe(
            spec=json.loads(snakemake.params.spec),
            experiment=snakemake.wildcards.experiment,
            encoder=snakemake.wildcards.model,
            predictions=paths_by_role(snakemake.input.items())["predictions"],
            target=Path(snakemake.input.target),
            out=out["metrics"],
        )


if "snakemake" in globals():
    main(snakemake)
