"""Adapter of rule apply_model: a model trained on everyone, on slides without expression."""

import json
from pathlib import Path

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items(), threads=1) as out:
        from histoloom.models import apply_model

        apply_model(
            model=Path(snakemake.input.model[0]),
            spec=json.loads(snakemake.params.spec),
            experiment=json.loads(snakemake.params.experiment),
            samples=[Path(p) for p in snakemake.input.samples],
            embeddings=paths_by_role(snakemake.input.items(), "embeddings_"),
            out={"predictions": out["predictions"]},
        )


if "snakemake" in globals():
    main(snakemake)
