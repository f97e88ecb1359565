"""Adapter of rule draw_errors: hits, false positives and misses of a model as tiles."""

import json
from pathlib import Path

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files, names = paths_by_role(snakemake.input.items()), snakemake.wildcards
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.report.errors import draw_errors, find_cases
        from histoloom.report.pages import write_csv

        cases = find_cases(Path(snakemake.input.predictions))
        title = json.loads(snakemake.params.title) or names.experiment
        write_csv(cases, out["cases"])
        draw_errors(
            cases=cases,
            samples=files["samples"],
            slides=files["slides"],
            title=f"{title}, {names.model}",
            out=out["figure"],
        )


if "snakemake" in globals():
    main(snakemake)
