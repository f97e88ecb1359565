"""Published tables and whether a number of ours may stand next to a published one.

A run is compared with a published cell stamp by stamp. What decides is the rule, in this order:

* ``not comparable``: something else was measured: another cohort (a simulated one above all), other labels, another
  reference, another model, encoder or weights. Nothing published is printed next to it.
* ``deviates``: the same thing measured otherwise; the differing choices are listed. The published value is printed.
* ``same``: every choice the paper states agrees; those it leaves open are listed. Only here is a difference printed.
* ``not run``: a published row that no run is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from histoloom.errors import InputError
from histoloom.folds import DELIBERATE
from histoloom.metrics.moran import LENGTH_SCALE_UM
from histoloom.metrics.protocol import UNSTATED

SAME, DEVIATES, NOT_COMPARABLE, NOT_RUN = "same", "deviates", "not comparable", "not run"
FUNDAMENTAL = ("source", "train_source", "label_method", "reference", "weights")
"""Choices that make it another measurement, and not another way of taking it."""


@dataclass(frozen=True)
class Status:
    """Whether a value may be compared, and what stands in the way or is left open."""

    status: str
    details: str


@dataclass(frozen=True)
class Row:
    """A published row."""

    name: str
    kind: str
    encoders: tuple[str, ...]
    not_run: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Published:
    """A published table: its content as in ``resources/published/<paper>_table<i>.yaml``, and its rows by name."""

    content: Mapping[str, Any]
    rows: Mapping[str, Row]

    @property
    def columns(self) -> list[dict[str, Any]]:
        return list(self.content["columns"])

    def stamp(self, column: Mapping[str, Any]) -> dict[str, Any]:
        own = {key: column[key] for key in ("source", "train_source", "split") if key in column}
        return {**self.content["stamp"], **own, **column["stamp"]}

    def find(self, kind: str, encoders: Sequence[str]) -> Row | None:
        """Return the row that a run with this kind and these encoder cards is."""
        for row in self.rows.values():
            if row.kind == kind and sorted(row.encoders) == sorted(encoders):
                return row
        return None

    def place(
        self, metric: str, stamp: Mapping[str, Any], protocol: Mapping[str, Any]
    ) -> tuple[dict[str, Any] | None, Row | None, Status]:
        """Return the column and the row that a run's number is of, where there are, and whether it may stand there."""
        row = self.find(str(protocol.get("kind")), encoder_cards(protocol))
        for column in self.columns:
            trained = column.get("train_source") in (None, stamp.get("train_source"))
            # Only a table of times holds several splits of one cohort.
            split = metric != "seconds" or column.get("split") == stamp["split"]
            if column["metric"] == metric and column.get("source") == stamp["source"] and trained and split:
                return column, row, compare(self.stamp(column), stamp, row, protocol)
        status = compare({}, stamp, row, protocol)
        return None, row, status if status.status == NOT_COMPARABLE else Status(NOT_COMPARABLE, "no such column")

    def not_run(self, covered: Collection[tuple[str, str]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield the cells that no run stands for, each with its column; `covered` are (row, column) of the others."""
        for row in self.rows.values():
            for column in self.columns:
                if (row.name, column["id"]) not in covered and column["id"] in row.values:
                    cell = {"row": row.name, "ran": "", "column": column["title"], "status": NOT_RUN}
                    yield {**cell, "details": row.not_run, "published": row.values[column["id"]]}, column


def load_published(folder: str | Path, paper: str) -> dict[int, Published]:
    """Read the published tables of a paper, by number."""
    tables: dict[int, Published] = {}
    for path in sorted(Path(folder).glob(f"{paper}_table*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        try:
            rows = {
                row["id"]: Row(row["id"], row["kind"], tuple(row["encoders"]), row["not_run"], row["values"])
                for row in content["rows"]
            }
            tables[int(content["table"])] = Published(content, rows)
        except KeyError as error:
            remedy = "see workflow/schemas/published.schema.yaml."
            raise InputError(path, f"lacks {error}.", remedy, "published-table-keys") from error
    if not tables:
        problem = f"holds no published table of paper '{paper}'."
        raise InputError(folder, problem, "fix `paper:` or add the table.", "published-table-none")
    return tables


def _encoders(protocol: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    encoders = protocol.get("encoders") or {}
    return list(encoders.values() if isinstance(encoders, Mapping) else encoders)


def encoder_cards(protocol: Mapping[str, Any]) -> list[str]:
    """Return the encoder cards that a run used."""
    return sorted(str(item["card"]) for item in _encoders(protocol))


def weights_of(protocol: Mapping[str, Any]) -> str:
    """Return where a run's weights came from, its encoders' or a pixel model's start: hub, local, random or none."""
    if not _encoders(protocol) and protocol.get("weights"):
        start = str(protocol["weights"])
        return {"imagenet": "hub", "random": "random"}.get(start, "local")
    revisions = [str(item.get("revision") or "none") for item in _encoders(protocol)]
    for name in ("random", "local", "none"):
        if any(revision.startswith(name) for revision in revisions):
            return name
    return "hub" if revisions else "none"


def run_stamp(
    protocol: Mapping[str, Any], entry: Mapping[str, Any], cohort: str, model: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a run's protocol in the words of published stamps.

    `entry` is the experiment's with ``sources`` (by cohort) and ``label_spec``, `cohort` the one tested on, `model` the
    model's entry.
    """
    target, sources = protocol.get("target") or {}, entry.get("sources") or {}
    tiles = protocol.get("tiles_spec")
    tiles = tiles if isinstance(tiles, Mapping) else {}
    stamp: dict[str, Any] = {
        "source": sources.get(cohort, UNSTATED),
        "weights": weights_of(protocol),
        "tile_px": tiles.get("size_px", UNSTATED),
        "tile_um_per_px": tiles.get("um_per_px", UNSTATED),
        "split": protocol.get("split", UNSTATED),
        "standardise": protocol.get("standardise", UNSTATED),
        "aggregation": protocol.get("aggregation", UNSTATED),
    }
    if target.get("kind") == "expression":
        panel, model = protocol.get("panel") or target.get("panel") or {}, model or {}
        return stamp | {
            "background": (tiles.get("background") or {}).get("method", UNSTATED),
            "sections": protocol.get("sections") or UNSTATED,
            "panel": panel.get("genes", UNSTATED),
            "size_factor": target.get("size_factor", UNSTATED),
            "log": target.get("log", UNSTATED),
            "components": model.get("components", UNSTATED),
            "alpha": model.get("alpha", UNSTATED),
            "undefined_genes": protocol.get("undefined_genes", UNSTATED),
            "n_observations": (protocol.get("n_observations") or {}).get(cohort, UNSTATED),
        }
    labels = entry.get("label_spec") or {}
    trained = sorted({str(sources.get(c, UNSTATED)) for c in entry.get("train_cohorts") or []})
    return stamp | {
        "train_source": trained[0] if len(trained) == 1 else trained,
        "label_method": labels.get("method", UNSTATED),
        "reference": labels.get("reference") or "none",
        "selection": protocol.get("selection", UNSTATED),
        "target_statistic": target.get("statistic", UNSTATED),
        "target_transform": target.get("transform", UNSTATED),
        "train_seeds": len(protocol.get("train_seeds") or []),
        "similarity": "row",
        "length_scale_um": _length_scale(protocol),
        **{key: (protocol.get(key) or {}).get(cohort, UNSTATED) for key in _COUNTS},
    }


def _length_scale(protocol: Mapping[str, Any]) -> Any:
    """Return Moran's length scale, um; null is the default of arrays of spots, which the papers have."""
    moran = protocol.get("moran") or {}
    return (moran["length_scale_um"] or LENGTH_SCALE_UM) if "length_scale_um" in moran else UNSTATED


_COUNTS = ("n_patients", "n_sections", "n_observations")


def _reasons(protocol: Mapping[str, Any]) -> list[str]:
    """Return what no published value was made under."""
    marks = []
    if protocol.get("split") in DELIBERATE:
        marks.append("leaks on purpose")
    if protocol.get("shuffle_labels") not in {None, "none", UNSTATED}:
        marks.append("labels shuffled")
    if protocol.get("uses_test_labels"):
        marks.append("sees test labels")
    return marks


def compare(
    published: Mapping[str, Any], run: Mapping[str, Any], row: Row | None, protocol: Mapping[str, Any]
) -> Status:
    """Say whether a run's value (stamp `run`) may stand next to a published one of `row`; None: no such row."""
    if str(run.get("source")).startswith("simulated"):
        return Status(NOT_COMPARABLE, "simulated cohort")
    reasons = _reasons(protocol)
    if row is None:
        reasons.insert(0, "no such model in the paper")
    stated = {key: value for key, value in published.items() if value != UNSTATED}
    differing = [key for key, value in stated.items() if run.get(key, UNSTATED) != value]
    reasons += [_difference(key, stated, run) for key in differing if key in FUNDAMENTAL]
    if reasons:
        return Status(NOT_COMPARABLE, "; ".join(reasons))
    if differing:
        return Status(DEVIATES, "; ".join(_difference(key, stated, run) for key in differing))
    silent = sorted(key for key, value in published.items() if value == UNSTATED)
    return Status(SAME, f"paper silent on: {', '.join(silent)}" if silent else "")


def _difference(key: str, stated: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    return f"{key.replace('_', ' ')} {run.get(key, UNSTATED)} instead of {stated[key]}"
