"""Adapter of rule draw_ablation: the same model on encoders alone and side by side, as a table and a figure."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    metrics = paths_by_role(snakemake.input.items())["metrics"]
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.report.ablation import draw_ablation, write_ablation

        asked = {"experiment": snakemake.wildcards.experiment, "spec": json.loads(snakemake.params.spec)}
        write_ablation(**asked, metrics=metrics, out={e: out[f"ablation_{e}"] for e in ("csv", "md", "html")})
        draw_ablation(**asked, metrics=metrics, out=out["figure"])


if "snakemake" in globals():
    main(snakemake)
