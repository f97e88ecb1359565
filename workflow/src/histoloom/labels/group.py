"""Label groups of sections by the method that their entry names, several fits in one job."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from histoloom import kinds
from histoloom.artefacts import read_metadata
from histoloom.devices import lease_device
from histoloom.efficiency import Meter
from histoloom.errors import InputError
from histoloom.jobs import seed_everything
from histoloom.labels.artefact import GroupLabels, LabelTask, science, write_labels

logger = logging.getLogger(__name__)


def label_groups(tasks: Sequence[LabelTask], out: Path, efficiency: Path) -> None:
    """Make several fits of one label entry and cohort, one after another, so that they share imports and the device.

    A finished fit stays in the job's scratch folder until all are done: a job that was killed does not make it again.
    Writes ``{group}.{seed}.h5ad`` for each fit into `out`; in `efficiency` fits taken from an earlier try do not count.
    """
    first = tasks[0]
    finished = first.scratch / "finished"
    finished.mkdir(parents=True, exist_ok=True)
    items = 0
    with lease_device("auto" if kinds.LABELS[first.spec["method"]].gpu else "cpu") as device:
        meter = Meter("labels", device, first.threads)
        for task in tasks:
            name = f"{task.group}.{task.seed}"
            path = finished / f"{name}.h5ad"
            if path.is_file() and read_metadata(path)["identity"] == task.identity:
                logger.info("%s, seed %d: finished in an earlier try", task.where, task.seed)
                continue
            seed_everything(task.seed)
            part = path.with_suffix(".part.h5ad")
            items += label_group(replace(task, scratch=first.scratch / name, device=device), part)
            os.replace(part, path)
        meter.write(efficiency, items)
    out.mkdir()
    for task in tasks:
        shutil.copyfile(finished / f"{task.group}.{task.seed}.h5ad", out / f"{task.group}.{task.seed}.h5ad")


def label_group(task: LabelTask, out: Path) -> int:
    """Write the labels of one fit as h5ad; return how many observations got one."""
    if not task.samples:
        raise InputError(task.where, "has no sections.", "name one that is not excluded.", code="labels-no-sections")
    result: GroupLabels = kinds.load("labels", task.spec["method"])(task)
    _check(result, task)
    metadata = {
        "method": task.spec["method"],
        "spec": science(task.spec),
        "cohort": task.cohort,
        "group": task.group,
        "seed": task.seed,
        "units": result.units,
        "dropped": {sample: dict(reasons) for sample, reasons in result.dropped.items()},
        "qc": dict(result.qc),
        "identity": task.identity,
    }
    write_labels(result, metadata, out)
    logger.info("%s, seed %d: %d observations, %d types", task.where, task.seed, len(result.obs), len(result.types))
    return len(result.obs)


def _check(result: GroupLabels, task: LabelTask) -> None:
    if not len(result.obs):
        raise InputError(task.where, "no observation got a label.", "look at the sections' QC.", code="labels-empty")
    for name, values in {"mean": result.mean, **result.layers}.items():
        if not np.isfinite(values).all():
            problem = f"{int((~np.isfinite(values)).sum())} values of '{name}' are not finite; the fit diverged."
            remedy = "lower `lr`, or look for sections with very few counts."
            raise InputError(task.where, problem, remedy, code="labels-not-finite")
        if (values < 0).any():
            problem = f"'{name}' holds negative abundances."
            raise InputError(task.where, problem, "check the table that they come from.", code="labels-negative")
