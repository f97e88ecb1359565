"""Label one group of sections by the method that its entry names."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from histoloom import kinds
from histoloom.artefacts import identities_of
from histoloom.devices import lease_device
from histoloom.efficiency import Meter
from histoloom.errors import InputError
from histoloom.identity import make_identity
from histoloom.labels.artefact import GroupLabels, LabelTask, write_labels
from histoloom.labels.settings import label_settings

logger = logging.getLogger(__name__)


def label_group(
    *,
    spec: Mapping[str, Any],
    cohort: str,
    group: str,
    seed: int,
    samples: list[Path],
    reference: Path | None,
    tables: list[Path],
    out: Path,
    efficiency: Path,
    scratch: Path,
    threads: int,
    nuclei: Sequence[Path] = (),
    granted_mb: float | None = None,
    genes: Path | None = None,
) -> None:
    """Write the labels of one group of sections for one seed.

    Parameters
    ----------
    spec
        The labels' entry (``labels.<method>.schema.yaml``).
    cohort, group, seed
        What is labelled, and the optimiser seed; methods without a fit ignore the seed.
    samples
        h5ad of each section of the group.
    reference
        The reference's h5ad; None for methods that take none.
    tables
        Published table of the cohort, or ground truth of each section.
    out
        The h5ad to write.
    efficiency
        The json of wall time and memory to write.
    scratch
        Folder of checkpoints.
    threads
        Threads of the fit; part of the identity, since they can change floats.
    nuclei
        Counted nuclei of its sections, where cells are expected by them.
    granted_mb
        Memory that the job was given, MB; a fit that needs more is refused before it begins.
    genes
        Table through which genes of the sections and of the reference meet (`histoloom.genes`); None: by name.

    Raises
    ------
    InputError
        Input that the method cannot use, or labels that are not finite or negative.
    """
    spec = label_settings(spec)
    method = kinds.load("labels", spec["method"])
    task = LabelTask(
        spec, cohort, group, seed, list(samples), reference, list(tables), Path(scratch), threads, list(nuclei)
    )
    if not samples:
        raise InputError(task.where, "has no sections.", "name at least one section that is not excluded.")
    inputs: dict[str, Any] = {"samples": task.samples, "tables": task.tables}
    if reference is not None:
        inputs["reference"] = reference
    if task.nuclei:
        inputs["nuclei"] = task.nuclei
    if genes is not None:
        inputs["genes"] = genes
    # One more seed in the config leaves the labels of the others what they were.
    science = {key: value for key, value in spec.items() if key != "seeds"}
    params: dict[str, Any] = {"spec": science, "cohort": cohort, "group": group}
    if kinds.LABELS[spec["method"]].threads_matter:
        params["threads"] = threads
    identity = make_identity("labels", params, identities_of(inputs), seed)
    task = replace(task, identity=identity["sha256"], granted_mb=granted_mb, genes=genes)
    with lease_device("auto" if kinds.LABELS[spec["method"]].gpu else "cpu") as device:
        meter = Meter("labels", device, threads)
        result: GroupLabels = method(replace(task, device=device))
        cost = meter.record(len(result.obs))
    _check(result, task)
    metadata = {
        "method": spec["method"],
        "spec": science,
        "cohort": cohort,
        "group": group,
        "seed": seed,
        "units": result.units,
        "dropped": {sample: dict(reasons) for sample, reasons in result.dropped.items()},
        "qc": dict(result.qc),
        "identity": identity,
    }
    write_labels(result.obs, result.types, result.mean, result.layers, metadata, out)
    efficiency.write_text(json.dumps(cost, indent=1, sort_keys=True) + "\n")
    logger.info(
        "%s: %d observations, %d types, %.1f s", task.where, len(result.obs), len(result.types), cost["seconds"]
    )


def _check(result: GroupLabels, task: LabelTask) -> None:
    """Refuse labels that no later step could use."""
    if not len(result.obs):
        raise InputError(
            task.where, "no observation got a label.", "look at the sections' QC, or exclude them in the sheet."
        )
    for name, values in {"mean": result.mean, **result.layers}.items():
        if not np.isfinite(values).all():
            raise InputError(
                task.where,
                f"{int((~np.isfinite(values)).sum())} values of '{name}' are not finite; the fit diverged.",
                "lower `lr`, or look for sections with very few counts.",
            )
        if (values < 0).any():
            raise InputError(task.where, f"'{name}' holds negative abundances.", "check the table that they come from.")
