"""Adapter of rule draw_attainable: CC of an experiment's models next to its ceiling."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items()) as out:
        from histoloom.report.attainable import draw_attainable, write_attainable

        chosen = {
            "spec": json.loads(snakemake.params.spec),
            "metrics": files["metrics"],
            "ceilings": files["ceilings"],
        }
        draw_attainable(**chosen, out=out["figure"])
        write_attainable(**chosen, out={role: out[role] for role in ("csv", "md", "html")})


if "snakemake" in globals():
    main(snakemake)
