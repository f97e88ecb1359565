"""Adapter of rule draw_experiment: the ladder of models, as a figure and a table, and the bars by patient."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    metrics = paths_by_role(snakemake.input.items())["metrics"]
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.report.figures import draw_bars, draw_ladder
        from histoloom.report.ladder import write_ladder

        experiment, spec = snakemake.wildcards.experiment, json.loads(snakemake.params.spec)
        names = {"experiment": experiment, "spec": spec, "metrics": metrics}
        draw_ladder(**names, out=out["ladder"])
        write_ladder(**names, out={ending: out[f"table_{ending}"] for ending in ("csv", "md", "html")})
        draw_bars(**names, out=out["bars"])


if "snakemake" in globals():
    main(snakemake)
