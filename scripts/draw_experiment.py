"""Adapter of rule draw_experiment: the baseline comparison as a figure and a table, and bars by patient."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    metrics = paths_by_role(snakemake.input.items())["metrics"]
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.report.baselines import write_baselines
        from histoloom.report.figures import draw_bars, draw_baselines

        experiment, spec = snakemake.wildcards.experiment, json.loads(snakemake.params.spec)
        names = {"experiment": experiment, "spec": spec, "metrics": metrics}
        draw_baselines(**names, out=out["baselines"])
        write_baselines(**names, out={ending: out[f"table_{ending}"] for ending in ("csv", "md", "html")})
        draw_bars(**names, out=out["bars"])


if "snakemake" in globals():
    main(snakemake)
