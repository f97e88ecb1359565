"""Start a config of one's own: a short commented config and a sheet with an example row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from histoloom.config import RESOURCES
from histoloom.errors import InputError

STARTERS = RESOURCES / "starters"
TASKS: Mapping[str, str] = {
    "cell_types": "cell types, with labels from a single-cell reference",
    "label_table": "cell types, with a table of labels of your own",
    "genes": "gene expression",
    "cells": "classes of single cells",
    "slides": "maps of slides without expression, by a trained model",
}
ROWS: Mapping[str, Mapping[str, str]] = {
    "files": {
        "sample": "S1", "patient": "P1", "counts": "S1/counts.tsv.gz", "positions": "S1/positions.csv",
        "image": "S1/HE.tif", "mpp": "0.5", "pitch_um": "100", "spot_diameter_um": "55",
    },
    "visium": {"sample": "S1", "patient": "P1", "outs": "S1/outs", "image": "S1/HE.tif", "mpp": ""},
    "xenium": {
        "sample": "S1", "patient": "P1", "bundle": "S1", "image": "S1/HE.ome.tif", "alignment": "S1/alignment.csv",
        "mpp": "",
    },
    "slides": {"sample": "N1", "patient": "P9", "mpp": "0.5", "image": "N1.svs"},
}  # fmt: skip
"""The example row of a sheet, by source."""
CELLS = {
    "sample": "S1",
    "patient": "P1",
    "counts": "S1/cells.h5ad",
    "positions": "",
    "image": "S1/HE.tif",
    "mpp": "0.5",
}
"""The example row of cells of one's own: their places lie in the h5ad, and no array has a pitch."""
_LAST = {"exclude": "", "qc_flag": ""}


def start(name: str, source: str, task: str, folder: Path) -> list[Path]:
    """Write ``NAME.yaml`` and ``NAME.tsv`` and return their paths; files that exist are never overwritten."""
    if not re.fullmatch("[A-Za-z0-9_-]+", name):
        problem = f"'{name}' is no name for a config."
        raise InputError("NAME", problem, "use letters, digits, _ and -.", code="start-name")
    task = task or ("slides" if source == "slides" else "cell_types")
    source = source or ("slides" if task == "slides" else "files")
    for what, value, known in (("TASK", task, TASKS), ("SOURCE", source, ROWS)):
        if value not in known:
            raise InputError(what, f"'{value}' is unknown.", f"use one of: {', '.join(known)}.", code="start-choice")
    if (task == "slides") != (source == "slides"):
        problem = f"'{source}' does not go with TASK={task}: slides without expression are mapped, not trained on."
        raise InputError("SOURCE", problem, "use SOURCE=slides with TASK=slides.", code="start-choice")
    row = {**(CELLS if (task, source) == ("cells", "files") else ROWS[source]), **_LAST}
    # Bundles of 10x are looked for among the downloads, unless a folder is named.
    place = f"{source}, root: ." if source == "xenium" else source
    config = (STARTERS / f"{task}.yaml").read_text().replace("NAME", name).replace("SOURCE", place)
    sheet = "\t".join(row) + "\n" + "\t".join(row.values()) + "\n"
    files = {folder / f"{name}.yaml": config, folder / f"{name}.tsv": sheet}
    for path in files:
        if path.exists():
            raise InputError(path, "exists already.", "choose another NAME, or remove it.", code="start-exists")
    for path, text in files.items():
        path.write_text(text)
    return list(files)
