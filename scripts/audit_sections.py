"""Adapter of rule audit_sections: the content guard over the sections of an experiment."""

import json
from pathlib import Path

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = paths_by_role(snakemake.input.items())
    spec = json.loads(snakemake.params.spec)
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.audit import audit_sections
        from histoloom.report.audit_figure import draw_audit

        audit_sections(
            spec={"on_match": spec.get("content_guard", "stop")},
            samples=files["samples"],
            folds=Path(snakemake.input.folds),
            genes=next(iter(files["genes"]), None),
            out=out["table"],
        )
        draw_audit(table=out["table"], title=spec["name"], out=out["figure"])


if "snakemake" in globals():
    main(snakemake)
