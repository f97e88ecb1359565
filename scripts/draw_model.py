"""Adapter of rule draw_model: maps over a section, ranks of types, colocalization."""

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    names = {"experiment": snakemake.wildcards.experiment, "model": snakemake.wildcards.model}
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.report.figures import draw_coloc, draw_maps, draw_ranks

        (predictions,), (metrics,) = files["predictions"], files["metrics"]
        (target,), (folds,) = files["target"], files["folds"]
        draw_maps(**names, predictions=predictions, samples=files["samples"], out=out["maps"])
        draw_ranks(**names, predictions=predictions, target=target, folds=folds, out=out["ranks"])
        draw_coloc(**names, metrics=metrics, out=out["colocalization"])


if "snakemake" in globals():
    main(snakemake)
