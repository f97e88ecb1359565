"""Checks of labels, predictions and tiles by something else that is known, and that no model trained on.

A check is one module with ``inputs`` (its files, from the plan), ``score`` (rows like a model's, where ``model`` is the
name of the labels) and ``draw`` (its figure); `histoloom.kinds.CHECKS` lists them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from histoloom import kinds, paths
from histoloom.artefacts import identities_of
from histoloom.checks.labelled import Labels, read_labels, read_predicted
from histoloom.errors import InputError
from histoloom.identity import canonical_json, make_identity
from histoloom.metrics.rows import assemble, read_metrics, write_metrics
from histoloom.report.results import with_marks
from histoloom.report.style import PALETTE, figure, jitter, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


Plan = Any  # `histoloom.plan.checks.Checks`; the plan is above all stages, so none imports it
Result = tuple[str, list[pd.DataFrame], Mapping[str, Any]]
"""Name of the labels or of the model, rows, metadata of the labels."""
Score = Callable[[Mapping[str, Any], Sequence[Path], Sequence[Path]], Iterator[Result]]
"""``score`` of a check: its entry, what is checked, what that is compared with."""
Tables = list[pd.DataFrame]
FLAGGED = "#9A9A9A"
"""Colour of flagged sections."""
_STAMPED = ("method", "units", "seeds", "seed", "demo_fit", "variants")


def section_files(plan: Plan, cohorts: Sequence[str], pattern: str, **names: str) -> list[str]:
    """Return one file per section of cohorts."""
    return [pattern.format(cohort=c, sample=s, **names) for c, s in plan.sections.pairs(cohorts)]


def check_files(plan: Plan, entry: Mapping[str, Any], pattern: str = paths.SAMPLE) -> dict[str, list[str]]:
    """Return what is checked, and the other labels of the entry's ``against`` or one file per section.

    Checked are gathered labels, or held-out predictions of an experiment's models (by default all that see tiles).
    """
    if "experiment" in entry:
        experiment = entry["experiment"]
        trained = plan.experiments.entry(experiment)["models"]
        models = entry["models"] or [model for model in trained if plan.models.embeddings.of_model(model)]
        return {
            "labels": [plan.models.first_predictions(experiment, model) for model in models],
            "against": [pattern.format(cohort=c, sample=s) for c, s in plan.experiments.samples(experiment)],
        }
    labels, other = (
        [paths.LABELS.format(labels=name, cohort=cohort) for cohort in entry["cohorts"] if name]
        for name in (entry["labels"], entry.get("against"))
    )
    return {"labels": labels, "against": other or section_files(plan, entry["cohorts"], pattern)}


def each_cohort(spec: Mapping[str, Any], files: Sequence[Path]) -> Iterator[tuple[str, Labels]]:
    """Yield labels, or each model's predictions read as labels, cohort by cohort."""
    if "labels" in spec:
        yield from ((str(spec["labels"]), read_labels(path)) for path in files)
        return
    for path in files:
        for item in read_predicted(path):
            if not spec.get("cohorts") or item.cohort in spec["cohorts"]:
                yield str(item.metadata.get("model", Path(path).stem)), item


def paired(score: Callable[[Mapping[str, Any], Labels, Labels], Tables]) -> Score:
    """Score labels by other labels of the same cohort."""

    def run(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
        others = {item.cohort: item for item in map(read_labels, against)}
        for name, item in each_cohort(spec, labels):
            if item.cohort not in others:
                problem = f"cohort '{item.cohort}' has nothing to compare with."
                raise InputError(where(spec), problem, "label it both ways.", code="check-unpaired-cohort")
            yield name, score(spec, item, others[item.cohort]), item.metadata

    return run


def by_sections(
    read: Callable[[Sequence[Path], str], tuple[Any, Mapping[str, str]]],
    score: Callable[[Mapping[str, Any], Labels, Any], Tables],
) -> Score:
    """Score labels by what `read` gives of a cohort's sections, next to their QC flags."""

    def run(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
        for name, item in each_cohort(spec, labels):
            known, qc_flags = read(against, item.cohort)
            yield name, score(spec, item.flagged(qc_flags), known), item.metadata

    return run


def where(spec: Mapping[str, Any], key: str = "") -> str:
    """Return where in the config an error of a check lies."""
    return f"checks.{spec.get('name', '?')}" + (f".{key}" if key else "")


def run_check(*, spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path], out: Path) -> None:
    """Write ``metrics/checks/{check}.parquet``, for the files that the check's ``inputs`` names.

    `spec` is the check's entry and its ``name``. Rows have ``model`` = name of the labels or of the model, ``against``
    = what they were held to.
    """
    kind = kinds.find("checks", str(spec["kind"]))
    parts = []
    for model, frames, facts in kinds.load_attribute(f"{kind.module}:score")(spec, labels, against):
        protocol = canonical_json({"check": dict(spec), "labels": {key: facts.get(key) for key in _STAMPED}})
        parts += [frame.assign(model=model, protocol=protocol) for frame in frames if len(frame)]
    rows = assemble(parts, against=kind.against)
    logger.info("check %s: %d rows", spec.get("name", ""), len(rows))
    identity = make_identity("checks", {"spec": dict(spec)}, identities_of({"labels": labels, "against": against}))
    write_metrics(rows, out, {"check": spec.get("name", ""), "kind": spec["kind"], "identity": identity})


def draw_check(*, spec: Mapping[str, Any], metrics: Path, out: Path) -> None:
    """Draw what a check found, as its kind does."""
    rows = read_metrics([metrics])
    title = with_marks(str(spec.get("title") or spec.get("name") or ""), rows)
    kinds.load_attribute(f"{kinds.find('checks', str(spec['kind'])).module}:draw")(spec, rows, title, out)


def heading(title: str, text: str = "") -> dict[str, Any]:
    """Return a figure's title and what it shows, as arguments of ``suptitle``."""
    return {"t": f"{title}\n{text}" if text else title, "x": 0.01, "ha": "left", "fontsize": 9.5}


def draw_points(ax: Axes, y: int, points: pd.DataFrame, samples: Sequence[str]) -> None:
    """Draw sections as points around `y`: coloured and named where they are few, grey where flagged."""
    few = len(samples) <= len(PALETTE)
    for shift, point in zip(jitter(len(points), 0.4), points.to_dict("records"), strict=True):
        tone = PALETTE[samples.index(point["sample"]) if few else 0]
        ax.plot(point["value"], y + shift, "o", ms=4.5, mec="white", mew=0.5, zorder=3,
                color=FLAGGED if point["qc_flag"] else tone, label=point["sample"] if few else None)  # fmt: skip


def legend_once(fig: Figure, title: str | None = None) -> None:
    """Name each label of the first axes once, in order, right of the figure."""
    handles, labels = fig.axes[0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        names = sorted(once)
        fig.legend([once[name] for name in names], names, loc="outside right center", title=title, frameon=False)


def draw_by_region(
    rows: pd.DataFrame, label: str, limits: tuple[float, float], title: str, text: str, out: Path
) -> None:
    """Draw one number per region: the cohort's mean as a bar, sections as points."""
    mean = rows[rows["aggregation"] == "cohort"].groupby("target")["value"].mean().sort_values(kind="stable")
    sections = rows[rows["aggregation"] == "section"]
    with figure(7.0, 1.8 + 0.36 * max(len(mean), 3)) as fig:
        ax = fig.subplots()
        ax.barh(range(len(mean)), mean, 0.66, color="#D5DDE3")
        for y, name in enumerate(mean.index):
            points = sections[sections["target"] == name].sort_values("sample")
            ax.plot(points["value"], y + jitter(len(points), 0.36), "o", ms=4, color=PALETTE[0], mec="white", mew=0.4)
            count = f"{int(points['n'].sum())} spots, {len(points)} sect."
            ax.text(1.01, y, count, va="center", fontsize=7, color="#555555", transform=ax.get_yaxis_transform())
        ax.set_yticks(range(len(mean)), mean.index)
        ax.set_xlim(*limits)
        ax.set_xlabel(f"{label}; points: sections")
        fig.suptitle(**heading(title, text))
        save(fig, out)
