"""Checks of labels, predictions and tiles by something else that is known, and that no model trained on.

A check is one module with ``inputs`` (its files, from the plan), ``score`` (rows like a model's, where ``model`` is the
name of the labels) and ``draw`` (its figure); `histoloom.kinds.CHECKS` lists them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom import kinds, paths
from histoloom.artefacts import dense, identities_of, read_table, write_parquet
from histoloom.errors import InputError
from histoloom.identity import canonical_json, make_identity
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.rows import assemble, read_metrics, value_rows
from histoloom.metrics.scored import read_predictions
from histoloom.obs_keys import obs_keys, observation_keys
from histoloom.report.results import with_marks
from histoloom.report.style import PALETTE, drawing, heading, jitter
from histoloom.samples.section import Section, open_section
from histoloom.stats import Floats, pearson_columns

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
FLAGGED = "#9A9A9A"  # colour of flagged sections
_STAMPED = ("method", "units", "seeds", "seed", "demo_fit", "variants")


def section_files(plan: Plan, cohorts: Sequence[str], pattern: str, **names: str) -> list[str]:
    return paths.each(pattern, plan.sections.pairs(cohorts), **names)


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
            "against": paths.each(pattern, plan.experiments.samples(experiment)),
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
    write_parquet(rows, out, {"check": spec.get("name", ""), "kind": spec["kind"], "identity": identity})


def draw_check(*, spec: Mapping[str, Any], metrics: Path, out: Path) -> None:
    rows = read_metrics([metrics])
    title = with_marks(str(spec.get("title") or spec.get("name") or ""), rows)
    kinds.load_attribute(f"{kinds.find('checks', str(spec['kind'])).module}:draw")(spec, rows, title, out)


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
    with drawing(out, 7.0, 1.8 + 0.36 * max(len(mean), 3)) as fig:
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
        heading(fig, f"{title}\n{text}")


@dataclass(frozen=True)
class Labels:
    """Labels of one cohort; the index of obs is ``cohort/sample/obs_id``."""

    obs: pd.DataFrame  # cohort, sample, obs_id, patient, qc_flag and, where the method has it, excess_residual
    types: list[str]
    values: Floats  # (n, types)
    metadata: Mapping[str, Any]
    path: Path

    @property
    def cohort(self) -> str:
        return str(self.obs["cohort"].iloc[0])

    def sections(self) -> list[tuple[dict[str, str], np.ndarray]]:
        """Return each section's place, as columns of a metrics table, and the positions of its observations."""
        places = []
        for sample, index in sorted(self.obs.groupby("sample", sort=True).indices.items()):
            patient, qc_flag = self.obs.iloc[index[0]][["patient", "qc_flag"]].astype(str)
            places.append((place_of(self.cohort, str(sample), patient, qc_flag), np.asarray(index)))
        return places

    def shared_sections(self, other: Labels) -> list[tuple[dict[str, str], np.ndarray, np.ndarray]]:
        """Return each section's place with the positions of observations in both, here and in the other labels."""
        position = other.obs.index.get_indexer(self.obs.index)
        if not (position >= 0).any():
            problem = f"shares no observation with {other.path}."
            raise InputError(self.path, problem, "label the same sections.", code="check-no-shared-observation")
        known = [(place, index[position[index] >= 0]) for place, index in self.sections()]
        return [(place, index, position[index]) for place, index in known]

    def sum_of(self, wanted: str | Sequence[str], where: str) -> Floats:
        """Return (n,) abundance of one type, or of several together."""
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        for name in names:
            if name not in self.types:
                problem, remedy = f"'{name}' is no type of {self.path}.", f"use its types: {', '.join(self.types)}."
                raise InputError(where, problem, remedy, code="check-unknown-type")
        total: Floats = self.values[:, [self.types.index(name) for name in names]].sum(axis=1)
        return total

    def columns(self, names: Sequence[str]) -> Floats:
        """Return (n, len(names)) abundance of types."""
        return self.values[:, [self.types.index(name) for name in names]]

    def flagged(self, qc_flags: Mapping[str, str]) -> Labels:
        """Return the labels with the QC flags of their sections."""
        flags = self.obs["sample"].map(qc_flags).fillna(self.obs["qc_flag"])
        return replace(self, obs=self.obs.assign(qc_flag=flags))


def place_of(cohort: str, sample: str, patient: str, qc_flag: str) -> dict[str, str]:
    """Return a section's place, as columns of a metrics table."""
    return {"fold": "", "cohort": cohort, "sample": sample, "patient": patient, "qc_flag": qc_flag}


def common_types(spec: Mapping[str, Any], first: Labels, second: Labels) -> list[str]:
    """Return the types that both labels have; none is an error."""
    common = [name for name in first.types if name in second.types]
    if not common:
        problem = f"{first.path} and {second.path} share no type."
        raise InputError(where(spec), problem, "compare labels of the same types.", code="check-no-shared-type")
    return common


def correlated(
    first: Labels,
    second: Labels,
    types: Sequence[str],
    values: tuple[Floats, Floats],
    correlate: Callable[[Floats, Floats], tuple[Floats, Any]] = pearson_columns,
    **columns: Any,
) -> pd.DataFrame:
    """Return ``cc`` of (n, types) values of two labels' observations, by type and over types, rolled up."""
    parts = [
        value_rows(place, types, "cc", *correlate(values[0][index], values[1][position])).assign(**columns)
        for place, index, position in first.shared_sections(second)
    ]
    return roll_up(pd.concat(parts, ignore_index=True), types=True)


def read_labels(path: str | Path) -> Labels:
    table = read_table(path, layers=[])
    obs = table.obs[["sample", "obs_id", "patient"]].astype(str)
    obs = obs.assign(cohort=str(table.metadata.get("cohort") or Path(path).stem))
    obs["qc_flag"] = table.obs["qc_flag"].astype(str).to_numpy() if "qc_flag" in table.obs else ""
    if "excess_residual" in table.obs:
        obs["excess_residual"] = table.obs["excess_residual"].to_numpy(dtype=float)
    obs = obs.set_axis(observation_keys(obs))
    return Labels(obs, table.var_names, dense(table.X), dict(table.metadata), Path(path))


def read_predicted(path: str | Path) -> list[Labels]:
    """Read held-out predictions as labels, one item per cohort.

    An observation that several folds test gets the mean over them. ``metadata["method"]`` is ``prediction``.
    """
    scored = read_predictions(path)
    metadata = {"method": "prediction", **scored.metadata}
    keys = observation_keys(scored.obs)
    first = ~keys.duplicated()
    mean = pd.DataFrame(scored.prediction).groupby(keys.to_numpy(), sort=False).mean().loc[keys[first]].to_numpy()
    obs = scored.obs[first].set_axis(keys[first])
    return [
        Labels(obs.iloc[index], scored.types, mean[index], metadata, Path(path))
        for _, index in sorted(obs.groupby("cohort", sort=True).indices.items())
    ]


def sections_of(paths: Sequence[Path], cohort: str) -> tuple[list[Section], dict[str, str]]:
    """Return a cohort's sections, and their QC flags."""
    sections = [section for section in map(open_section, paths) if section.cohort == cohort]
    return sections, {section.sample: str(section.metadata.get("qc_flag") or "") for section in sections}


def read_regions(paths: Sequence[Path], cohort: str) -> tuple[pd.Series, dict[str, str]]:
    """Return regions by observation ("" where not annotated), and QC flags by section, of a cohort's sections."""
    sections, qc_flags = sections_of(paths, cohort)
    regions = [
        section.obs["region"].astype(object).fillna("").set_axis(obs_keys(cohort, section.sample, section.obs.index))
        for section in sections
        if "region" in section.obs
    ]
    if not regions:
        problem = "no section has a pathologist's regions."
        raise InputError(f"cohort '{cohort}'", problem, "name sections with `regions`.", code="check-no-regions")
    return pd.concat(regions), qc_flags


def joined(wanted: str | Sequence[str]) -> str:
    """Return one or several names as one."""
    return wanted if isinstance(wanted, str) else " + ".join(wanted)
