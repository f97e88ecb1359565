"""What the viewer shows of one section, gathered from its artefacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import Table, dense, read_elements, read_table
from histoloom.errors import InputError
from histoloom.metrics.held_out import held_out_of_bundle, held_out_scores
from histoloom.obs_keys import section_keys
from histoloom.samples.section import Section, open_section

Float32 = npt.NDArray[np.float32]
FLAGS: Mapping[str, str] = {"edge": "at the tissue's edge", "unlike_training": "unlike the training tiles"}
"""Columns of predictions that warn of an observation, and what they say."""


HELD_OUT: Mapping[str, str] = {
    "leave_one_patient_out": "not trained on this patient",
    "leave_one_sample_out": "not trained on this section, but perhaps on others of the same patient",
    "published": "not trained on this section, by published folds",
}
"""What a split says of the model that predicted a section."""


@dataclass(frozen=True)
class View:
    """One section: places, values and the picture they lie on.

    Attributes
    ----------
    title, note
        Heading, and one sentence that says what the values are worth.
    units
        Of the values, such as ``cells`` or ``proportion``.
    ids
        Names of the n observations.
    xy
        Their centres, (n, 2), level-0 px.
    side
        Side of a square, or diameter of a disc, level-0 px.
    mpp
        um per level-0 px; None where it is not known.
    types
        Names of the T types, genes or classes.
    layers
        (n, T) float32 by name: ``prediction``, ``labels``, ``spread`` (over models); NaN where unknown.
    columns
        Facts of the observations, (n,) each: ``tissue_fraction``, ``cells`` (how many a place stands for) and `FLAGS`.
    held_out
        Correlation of each type within held-out sections, ``mean`` of all and that of this section, ``here``.
    picture
        (h, w, 3) uint8, or None; `scale` is its px per level-0 px.
    corner
        Where QuPath's picture of the slide begins, level-0 px: it crops to the scanned area.
    """

    title: str
    note: str
    units: str
    ids: Sequence[str]
    xy: npt.NDArray[np.float64]
    side: float
    mpp: float | None
    types: Sequence[str]
    layers: Mapping[str, Float32]
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    held_out: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    picture: npt.NDArray[np.uint8] | None = None
    scale: float = 1.0
    round: bool = False
    corner: tuple[float, float] = (0.0, 0.0)


def view_predictions(
    *, predictions: Path, sample: Path, metrics: Path | None = None, bundle: Path | None = None
) -> View:
    """Return the view of a section's predictions, held out or on a slide without expression.

    `metrics`: of the experiment in which the model was tested, whose correlations are shown with the types; or
    `bundle`: the facts of the bundle that the model comes from.
    """
    section, table = open_section(sample), read_table(predictions)
    rows = _rows_of(table, section, predictions)
    layers = {"prediction": dense(table.X)[rows].astype(np.float32)}
    if "labels" in table.layers:
        layers["labels"] = dense(table.layers["labels"])[rows].astype(np.float32)
    seeds = [name for name in table.layers if name.startswith("seed_")]
    if "spread" in table.layers:
        layers["spread"] = dense(table.layers["spread"])[rows].astype(np.float32)
    elif len(seeds) > 1:
        layers["spread"] = np.std([dense(table.layers[name])[rows] for name in seeds], axis=0).astype(np.float32)
    if "spread" in layers and not np.isfinite(layers["spread"]).any():
        del layers["spread"]
    held_out = held_out_scores(metrics, section.cohort, section.sample) if metrics else {}
    held_out = held_out_of_bundle(bundle) if bundle else held_out
    facts, obs = table.metadata, table.obs.iloc[rows]
    if "labels" in layers:
        split = str(facts.get("protocol", {}).get("split", ""))
        note = f"Held out: the model was {HELD_OUT.get(split, f'tested by split {split}')}."
    else:
        note = (
            f"Nothing was measured on this slide. The correlations are those of '{facts.get('from')}', on patients "
            "that the model had not seen; they need not hold here."
        )
        if section.patient in (facts.get("shared_patients") or ()):
            note += f" The model was trained on this patient ({section.patient}): the map looks better than it would."
    title = f"{section.sample} ({section.cohort}): {facts.get('model')} of experiment {facts.get('experiment')}"
    return _view(section, obs, table.var_names, layers, title, note, str(facts.get("units", "")), held_out)


def view_labels(*, labels: Path, sample: Path) -> View:
    """Return the view of a section's labels."""
    section, table = open_section(sample), read_table(labels, layers=["sd"])
    rows = _rows_of(table, section, labels)
    at = pd.Index(section.obs.index.astype(str)).get_indexer(table.obs["obs_id"].iloc[rows].astype(str))
    obs = table.obs.iloc[rows].assign(x=section.spatial[at, 0], y=section.spatial[at, 1])
    facts = table.metadata
    title = f"{section.sample} ({section.cohort}): labels '{facts.get('name', labels.parent.name)}'"
    note = f"Labels of method {facts.get('method', '')}: estimates, not measurements."
    layers = {"labels": dense(table.X)[rows].astype(np.float32)}
    return _view(section, obs, table.var_names, layers, title, note, str(facts.get("units", "")), {})


def _rows_of(table: Table, section: Section, where: Path) -> npt.NDArray[np.intp]:
    sections = (
        section_keys(table.obs)
        if "cohort" in table.obs
        else pd.Index([f"{section.cohort}/{name}" for name in table.obs["sample"]])
    )
    rows = np.flatnonzero(sections == f"{section.cohort}/{section.sample}")
    if not len(rows):
        problem = f"holds nothing of {section.cohort}/{section.sample}; it has {', '.join(sorted(set(sections)))}."
        raise InputError(where, problem, "give the section that was predicted or labelled.", code="view-no-section")
    return rows


def _view(
    section: Section, obs: pd.DataFrame, types: Sequence[str], layers: Mapping[str, Float32], title: str, note: str,
    units: str, held_out: Mapping[str, Mapping[str, float]],
) -> View:  # fmt: skip
    facts = section.metadata
    # A section that was read without its slide holds a blank picture.
    picture = None if facts.get("slide_sha256", "") is None else section.picture("hires")
    key = f"uns/spatial/{section.sample}/scalefactors/tissue_hires_scalef"
    mpp = facts.get("mpp")
    spot, pitch = facts.get("spot_diameter_um"), facts.get("pitch_px")
    slide = "labels" not in layers
    side = float(pitch) if slide and pitch else float(spot) / float(mpp) if spot and mpp else float(pitch or 100)
    columns: dict[str, npt.NDArray[Any]] = {}
    if "tissue_fraction" in obs:
        columns["tissue_fraction"] = obs["tissue_fraction"].to_numpy(np.float32)
    columns |= {name: obs[name].to_numpy(bool) for name in FLAGS if name in obs}
    return View(
        title=title,
        note=note,
        units=units,
        ids=[str(name) for name in obs["obs_id"]],
        xy=obs[["x", "y"]].to_numpy(np.float64),
        side=side,
        mpp=float(mpp) if mpp else None,
        types=types,
        layers=layers,
        columns=columns,
        held_out=held_out,
        picture=picture,
        scale=float(read_elements(section.path, [key])[key]) if picture is not None else 1.0,
        round=not slide,
        corner=tuple(facts.get("slide_bounds", (0, 0))[:2]),
    )


def binned(view: View, most: int) -> View:
    """Return a view with at most about `most` places: the means of squares, where there are more observations.

    Squares are as small as they can be; ``cells`` says how many observations each stands for.
    """
    if len(view.ids) <= most:
        return view
    low = view.xy.min(axis=0)
    side = float(np.sqrt(np.prod(np.ptp(view.xy, axis=0)) / most))
    at = np.floor((view.xy - low) / side).astype(np.int64)
    unique, inverse, counts = np.unique(at, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.ravel()

    def means(values: npt.NDArray[Any]) -> Float32:
        known = np.isfinite(values)
        total = pd.DataFrame(np.where(known, values, 0)).groupby(inverse).sum().to_numpy()
        number = pd.DataFrame(known).groupby(inverse).sum().to_numpy()
        with np.errstate(invalid="ignore"):
            return np.asarray(total / np.where(number > 0, number, np.nan), np.float32)

    columns: dict[str, npt.NDArray[Any]] = {"cells": counts.astype(np.float32)}
    for name, column in view.columns.items():
        mean = means(column.astype(np.float64)[:, None])[:, 0]
        columns[name] = mean > 0.5 if name in FLAGS else mean
    return replace(
        view,
        note=f"{view.note} {len(view.ids):,} cells, drawn as the means of {len(unique):,} squares.",
        ids=[f"{x}x{y}" for x, y in unique],
        xy=(unique + 0.5) * side + low,
        side=side,
        layers={name: means(values) for name, values in view.layers.items()},
        columns=columns,
        round=False,
    )
