"""What an experiment measured, as tables and figures read it: rows, models in order, heading, words of its target."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from histoloom.errors import InputError
from histoloom.metrics.rows import read_metrics


@dataclass(frozen=True)
class Words:
    """How a kind of target is scored and spoken of.

    `score` is the metric of the headline (more is better), `item_score` that of one column, `error` is drawn under it;
    `item` and `observation` are what a column and a row of the target are. Numbers are correlated, classes are not.
    """

    score: str
    score_name: str
    error: str
    error_name: str
    item: str
    observation: str = "spot"
    item_score: str = "cc"
    correlates: bool = True
    target: str = "cell types"

    @property
    def items(self) -> str:
        """Return the plural of `item`."""
        return self.item + ("es" if self.item.endswith("s") else "s")


WORDS = {
    "abundance": Words("cc", "CC", "l1", "L1", "type"),
    "expression": Words("cc", "CC", "l1", "L1", "gene", target="gene expression"),
    "cell_class": Words(
        "macro_f1", "macro F1", "balanced_accuracy", "balanced accuracy", "class", "cell", "f1", False, "classes"
    ),
}


def words_of(metadata: Mapping[str, Any]) -> Words:
    """Return the words of predictions, by their metadata."""
    return WORDS[metadata.get("target_kind") or "abundance"]


@dataclass(frozen=True)
class Results:
    """The metric rows of an experiment, of all references; `reference` is what the headline is measured against.

    ``model`` of a row is the name for people, which holds the variant where it is not the default, and ``base`` the
    model's; `models` are those names in order.
    """

    name: str
    spec: Mapping[str, Any]
    rows: pd.DataFrame
    models: list[str]
    title: str
    words: Words
    reference: str

    def measured(self, *, flagged: bool = False) -> pd.DataFrame:
        """Return rows against the headline's reference, those of flagged sections only on request."""
        rows = self.rows[self.rows["against"] == self.reference]
        return rows if flagged else rows[rows["qc_flag"] == ""]

    def levels(self) -> list[dict[str, Any]]:
        """Return {model, level, baseline} from the lowest level up; models without a known level come last."""
        base = self.rows.drop_duplicates("model").set_index("model")["base"]
        known = {str(item["model"]): item for item in self.spec.get("baselines") or ()}
        order = {name: i for i, name in enumerate(known)}
        steps = [{"level": "", "baseline": False, **known.get(base[m], {}), "model": m} for m in self.models]
        return sorted(steps, key=lambda step: order.get(base[step["model"]], len(order)))


def read_results(experiment: str, spec: Mapping[str, Any], metrics: Sequence[Path]) -> Results:
    """Read the metrics of an experiment's models; ``models`` of its entry gives the order, ``title`` the heading."""
    rows = read_metrics(metrics)
    rows = rows[rows["experiment"] == experiment]
    if rows.empty:
        where, remedy = ", ".join(map(str, metrics)) or "metrics", "remove them, so that they are made anew."
        raise InputError(where, f"no rows of experiment '{experiment}'.", remedy, code="report-no-rows")
    names = rows[["model", "variant"]].drop_duplicates()
    wanted = list(spec.get("models") or sorted(names["model"]))
    names = names[names["model"].isin(wanted)].sort_values("model", key=lambda m: m.map(wanted.index), kind="stable")
    rows = rows[rows["model"].isin(wanted)].assign(base=rows["model"], model=display_names(rows))
    title = with_marks(str(spec.get("title") or experiment), rows)
    words = WORDS[(spec.get("target") or {}).get("kind", "abundance")]
    references = list(dict.fromkeys(rows["against"]))
    reference = "labels" if "labels" in references or not references else references[0]
    return Results(experiment, spec, rows, list(display_names(names)), title, words, reference)


def display_names(rows: pd.DataFrame) -> pd.Series:
    """Return the models of rows by name, with the variant where it is not the default: ``bleep (k50)``."""
    plain = rows["variant"].isin(["", "default"])
    return rows["model"].where(plain, rows["model"] + " (" + rows["variant"] + ")")


def pick(rows: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """Return the rows whose columns hold these values."""
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    return rows


def sort_by(table: pd.DataFrame, keys: Sequence[str], **orders: Sequence[str]) -> pd.DataFrame:
    """Return a table sorted by columns, some of them in an order of their own."""
    ranks = table[list(keys)].assign(
        **{name: pd.Categorical(table[name], categories=list(order)) for name, order in orders.items()}
    )
    return table.loc[ranks.sort_values(list(keys), kind="stable").index].reset_index(drop=True)


def overall(rows: pd.DataFrame, aggregation: str, metric: str) -> pd.DataFrame:
    """Return rows over all types of the mean prediction."""
    return pick(rows, aggregation=aggregation, metric=metric, target="", train_seed=-1)


def single(rows: pd.DataFrame) -> float:
    """Return the value of the first row, NaN where there is none."""
    return float(rows["value"].iloc[0]) if len(rows) else float("nan")


def with_marks(title: str, rows: pd.DataFrame) -> str:
    """Return a title that says so where labels come from a fit too short to trust."""
    stamps = [json.loads(text) for text in rows["protocol"].unique() if text]
    short = any(s.get("demo_fit") or (isinstance(of := s.get("labels"), dict) and of.get("demo_fit")) for s in stamps)
    return f"{title} [demo fit]" if short else title


def units(rows: pd.DataFrame) -> str:
    return str(json.loads(rows["protocol"].iloc[0]).get("units", "units of the labels")) if len(rows) else ""
