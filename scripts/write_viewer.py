"""Adapter of rules write_viewer and write_labels_viewer: a section's predictions or labels as one HTML file."""

import json

from histoloom.jobs import job, paths_by_role


def main(snakemake):
    files = {role: paths[0] for role, paths in paths_by_role(snakemake.input.items()).items()}
    with job(snakemake.log[0], snakemake.output.items(), snakemake.input) as out:
        from histoloom.viewer.page import write_page
        from histoloom.viewer.thumbnail import draw_thumbnail
        from histoloom.viewer.view import view_labels, view_predictions

        view = view_labels(**files) if "labels" in files else view_predictions(**files)
        spec = json.loads(snakemake.params.spec)
        write_page(view, out["html"], most_points=spec["most_points"], picture_px=spec["picture_px"])
        draw_thumbnail(view, out["thumbnail"])


if "snakemake" in globals():
    main(snakemake)
