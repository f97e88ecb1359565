"""The efficiency table: only ratios of methods measured in the same run on the same hardware mean anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from histoloom.errors import InputError
from histoloom.report.pages import Page, number
from histoloom.report.published import (
    NOT_COMPARABLE,
    NOT_RUN,
    SAME,
    Published,
    run_stamp,
)

EFFICIENCY_COLUMNS = [
    "row", "ran", "experiment", "column", "seconds", "ratio", "ratio_to", "peak_gpu_mb", "peak_rss_mb", "items",
    "items_per_s", "device", "hardware", "status", "details", "published", "published_ratio", "difference",
]  # fmt: skip
_MEASURED = ("seconds", "peak_gpu_mb", "peak_rss_mb", "items", "items_per_s", "device", "hardware")


def read_records(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Read training records, ``<experiment>/<model>.json``: experiment, model and what was measured."""
    records = []
    for path in map(Path, paths):
        try:
            record = json.loads(path.read_text())
            measured = {key: record.get(key) for key in _MEASURED}
            measured["seconds"] = float(record["seconds"])
        except (json.JSONDecodeError, KeyError) as error:
            problem, remedy = f"is no efficiency record ({error}).", "remove it and train again."
            raise InputError(path, problem, remedy, "efficiency-record") from error
        records.append({"experiment": path.parent.name, "model": path.stem, **measured})
    return pd.DataFrame(records, columns=["experiment", "model", *_MEASURED])


def add_ratios(records: pd.DataFrame, baseline: Sequence[str]) -> pd.DataFrame:
    """Add ``ratio`` and ``ratio_to``: seconds over those of the baseline, within an experiment and its hardware.

    The baseline is a model of `baseline`; where none ran, the slowest of the group.
    """
    parts = []
    for _, group in records.groupby(["experiment", "hardware", "device"], sort=False, dropna=False):
        chosen = group[group["model"].isin(baseline)]
        base = (chosen if len(chosen) else group.nlargest(1, "seconds")).iloc[0]
        ratio = group["seconds"] / base["seconds"] if base["seconds"] > 0 else float("nan")
        parts.append(group.assign(ratio=ratio, ratio_to=base["model"]))
    return pd.concat(parts).sort_index() if parts else records.assign(ratio=[], ratio_to=[])


def efficiency_table(
    table: Published, spec: Mapping[str, Any], metrics: pd.DataFrame, efficiency: Sequence[Path]
) -> pd.DataFrame:
    """Return one row per trained model, `EFFICIENCY_COLUMNS`, then the paper's cells that did not run.

    ``ratio`` is seconds over those of ``ratio_to``. The metrics' stamps say what each model was.
    """
    stamps = metrics.drop_duplicates(["experiment", "model"])[["experiment", "model", "cohort", "protocol"]]
    keys = list(zip(stamps["experiment"], stamps["model"], strict=True))
    protocols = {key: json.loads(text) for key, text in zip(keys, stamps["protocol"], strict=True)}
    cohorts = dict(zip(keys, stamps["cohort"].astype(str), strict=True))
    named = table.rows.get(str(table.content.get("baseline")))
    records = read_records(efficiency)
    kinds = {model: protocol.get("kind") for (_, model), protocol in protocols.items()}
    records = add_ratios(records, [m for m, kind in kinds.items() if named is not None and kind == named.kind])
    rows: list[dict[str, Any]] = []
    covered: set[tuple[str, str]] = set()
    for record in records.to_dict("records"):
        key = (record["experiment"], record["model"])
        entry, protocol = spec["experiments"].get(key[0]), protocols.get(key, {})
        if entry is None:
            continue
        stamp = {**run_stamp(protocol, entry, cohorts.get(key, "")), "hardware": record["hardware"]}
        column, published_row, status = table.place("seconds", stamp, protocol)
        row: dict[str, Any] = {
            **{str(k): v for k, v in record.items() if k != "model"},
            "row": record["model"], "ran": str(protocol.get("kind", "unstated")),
            "column": column["title"] if column else "training, s", "status": status.status, "details": status.details,
        }  # fmt: skip
        if column and published_row and status.status != NOT_COMPARABLE:
            covered.add((published_row.name, column["id"]))
            row["published"] = published_row.values[column["id"]]
            row["published_ratio"] = _ratio(table, published_row.name, column["id"])
            if status.status == SAME and kinds.get(str(record["ratio_to"])) == (named.kind if named else None):
                row["difference"] = record["ratio"] - row["published_ratio"]
        rows.append(row)
    for cell, column in table.not_run(covered):
        ratio = _ratio(table, cell["row"], column["id"])
        rows.append({**cell, "experiment": "", "ratio_to": "", "published_ratio": ratio})
    return pd.DataFrame(rows).reindex(columns=EFFICIENCY_COLUMNS)


def _ratio(table: Published, name: str, column: str) -> float:
    base = table.rows[str(table.content["baseline"])].values[column]
    return table.rows[name].values[column] / base


def efficiency_page(table: Published, frame: pd.DataFrame) -> Page:
    """Lay the efficiency table out for people."""
    content = table.content
    page = Page(f"Table {content['table']} of {content['paper']}: {content['title']}")
    page.text(content["citation"] + ".")
    measured, printed = frame[frame["status"] != NOT_RUN], frame[frame["status"] == NOT_RUN]
    if len(measured):
        page.heading("Measured in this run")
        shown = pd.DataFrame({"model": measured["row"] + " (" + measured["ran"] + ")"})
        shown["experiment"] = measured["experiment"]
        shown["training, s"] = [number(v, 1) for v in measured["seconds"]]
        ratios = zip(measured["ratio"], measured["ratio_to"], strict=True)
        shown["ratio"] = [f"{number(ratio)} of {base}" for ratio, base in ratios]
        shown["peak GPU, MB"] = [number(v, 0) for v in measured["peak_gpu_mb"]]
        shown["peak memory, MB"] = [number(v, 0) for v in measured["peak_rss_mb"]]
        shown["hardware"] = [f"{d}: {h}" for d, h in zip(measured["device"], measured["hardware"], strict=True)]
        page.table(shown.assign(status=measured["status"], details=measured["details"]))
    page.text("Seconds depend on the machine; only ratios within one experiment and its hardware may be compared.")
    if len(printed):
        page.heading("Published, not run here (hardware unstated)")
        wide = printed.pivot_table(index="row", columns="column", values="published", sort=False)
        ratio = printed.pivot_table(index="row", columns="column", values="published_ratio", sort=False)
        shown = pd.DataFrame(
            {c: [f"{number(v, 0)} (ratio {number(r)})" for v, r in zip(wide[c], ratio[c], strict=True)] for c in wide}
        )
        shown.insert(0, "model", list(wide.index))
        reasons = printed.groupby("row", sort=False)["details"].first()
        page.table(shown.assign(status=[f"{NOT_RUN}: {reasons[name]}" for name in wide.index]))
        page.text(f"Ratios to {content['baseline']}.")
    return page
