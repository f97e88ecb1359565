"""Adapter of rule report_leaks: the leakage effect, as table and figure."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.report.leak_figures import draw_leaks
        from histoloom.report.leaks import write_leaks

        results = {"spec": json.loads(snakemake.params.spec), "metrics": files["metrics"]}
        draw_leaks(**results, out=out["figure"])
        write_leaks(**results, out={role: out[role] for role in ("csv", "md", "html")})


if "snakemake" in globals():
    main(snakemake)
