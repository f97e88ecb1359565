"""Tables of a paper on cell classes: precision, recall and F1 by data set, model and class, ours next to the paper's.

A run is of a table when its labels come from what the table's labels come from (``label_modality``), and is a row when
it has the row's architecture and encoders. Baselines of ours stand below without a published value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from histoloom.metrics.protocol import UNSTATED
from histoloom.report.data_set_tables import Run, runs, without_empty
from histoloom.report.pages import Page, number, with_interval
from histoloom.report.published import (
    DEVIATES,
    NOT_COMPARABLE,
    SAME,
    Published,
    Status,
    compare,
    encoder_cards,
    weights_of,
)
from histoloom.report.results import pick

CELLS = [
    "table", "data_set", "row", "ran", "experiment", "class", "metric", "value", "low", "high", "n", "status",
    "details", "published", "difference",
]  # fmt: skip
METRICS = {"precision": "P", "recall": "R", "f1": "F1"}
_METHODS = {"singler": "SingleR", "nuclei": "nuclei of the H&E"}
_LEGEND = (
    "P, R, F1: precision, recall and F1, of the section's held-out cells; intervals by bootstrap over spatial blocks. "
    "same: every choice the paper states agrees; deviates: the same row measured otherwise, as listed; not comparable: "
    "another section, other labels, random weights, or no such row; not run: printed by the paper only."
)


def class_name(text: str) -> str:
    """Return a class as tables compare it: ``B_cell`` and ``b cell`` are one."""
    return text.replace("_", " ").casefold()


def _stamp(run: Run, entry: Mapping[str, Any]) -> dict[str, Any]:
    tiles, cohort = run.protocol.get("tiles_spec"), str(run.rows["cohort"].iloc[0])
    tiles = tiles if isinstance(tiles, Mapping) else {}
    counted = {key: (run.protocol.get(key) or {}).get(cohort) for key in ("n_sections", "n_observations")}
    method = (entry.get("label_spec") or {}).get("method")
    return {
        "source": run.data_set,
        "split": run.protocol.get("split", UNSTATED),
        "test_share": entry.get("test_share", UNSTATED),
        "selection": run.protocol.get("selection", UNSTATED),
        "tile_px": tiles.get("size_px", UNSTATED),
        "tile_um_per_px": tiles.get("um_per_px", UNSTATED),
        "label_method": _METHODS.get(str(method), method or UNSTATED),
        "label_modality": entry["target"].get("labels_from", UNSTATED),
        **counted,
    }


def row_of(table: Published, run: Run, spec: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the published row that a run is: of its data set, architecture and encoders."""
    kind, cards = f"transformer_{spec.get('architecture')}", set(encoder_cards(run.protocol))
    for row in table.content["rows"]:
        # With projections also the models of genes alone read both encoders.
        encoders = cards >= set(row["encoders"]) if spec.get("projections") else cards == set(row["encoders"])
        if row["kind"] == kind and encoders and row["stamp"]["source"] == run.data_set:
            return dict(row)
    return None


def _status(table: Published, run: Run, row: Mapping[str, Any] | None, entry: Mapping[str, Any]) -> Status:
    simulated = str(entry["sources"].get(run.rows["cohort"].iloc[0], "")).startswith("simulated")
    if simulated:
        return Status(NOT_COMPARABLE, "simulated cohort")
    if row is None:
        return Status(NOT_COMPARABLE, "the paper has no such row")
    if "random" in (run.protocol.get("weights"), weights_of(run.protocol)):
        return Status(NOT_COMPARABLE, "random weights")
    stated = {**table.content["stamp"], **row["stamp"]}
    status = compare(stated, _stamp(run, entry), table.rows[row["id"]], run.protocol)
    changed = sorted((run.protocol.get("changed") or {}).items())
    if not changed or status.status == NOT_COMPARABLE:
        return status
    said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in changed)
    before = [status.details] if status.status == DEVIATES else []
    return Status(DEVIATES, "; ".join([*before, f"other settings than {run.protocol.get('settings')}: {said}"]))


def _values(run: Run) -> Iterator[dict[str, Any]]:
    """Yield value, interval and number of cells per class and metric."""
    plain = pick(run.rows, gene_set="", target2="") if "target2" in run.rows else run.rows
    for name in dict.fromkeys(plain.loc[plain["metric"] == "f1", "target"]):
        own = plain[plain["target"] == name].set_index("metric")
        for metric in METRICS:
            ends = [own["value"].get(f"{metric}_{end}", float("nan")) for end in ("low", "high")]
            place = {"class": class_name(str(name)), "metric": metric}
            yield {**place, **own.loc[metric, ["value", "n"]].to_dict(), "low": ends[0], "high": ends[1]}


def class_cells(table: Published, spec: Mapping[str, Any], metrics: pd.DataFrame) -> pd.DataFrame:
    """Return every cell, `CELLS`: ours, then the paper's that no run is."""
    modality, cells, covered = table.content["stamp"]["label_modality"], [], set()
    columns = {(class_name(c["stamp"]["class"]), c["metric"]): c["id"] for c in table.columns}
    for run in runs(table, spec, metrics):
        entry = spec["experiments"][run.experiment]
        if entry["target"].get("labels_from") != modality:
            continue
        row = row_of(table, run, entry["model_specs"][str(run.rows["model"].iloc[0])])
        status = _status(table, run, row, entry)
        for value in _values(run):
            column = columns.get((value["class"], value["metric"]))
            cell = {
                "data_set": run.data_set, "row": row["id"] if row else run.name, "ran": run.name,
                "experiment": run.experiment, **value, "status": status.status, "details": status.details,
            }  # fmt: skip
            if row is not None and column is not None and status.status in {SAME, DEVIATES}:
                cell["published"] = row["values"][column]
                covered.add((row["id"], column))
                if status.status == SAME:
                    cell["difference"] = float(value["value"]) - float(cell["published"])
            cells.append(cell)
    rows = {row["id"]: row for row in table.content["rows"]}
    for cell, column in table.not_run(covered):
        place = {"class": class_name(column["stamp"]["class"]), "metric": column["metric"]}
        own = {key: cell[key] for key in ("row", "status", "details", "published")}
        cells.append({"data_set": rows[cell["row"]]["stamp"]["source"], **own, **place})
    frame = pd.DataFrame(cells).reindex(columns=CELLS).assign(table=table.content["table"])
    return frame.fillna({"experiment": "", "ran": ""})


def class_page(table: Published, cells: pd.DataFrame) -> Page:
    """Lay cells out by data set: model and class by metrics, ours and the paper's."""
    content = table.content
    page = Page(f"Table {content['table']} of {content['paper']}: {content['title']}")
    page.text(content["citation"] + ".")
    order = [*content["sources"], *[d for d in dict.fromkeys(cells["data_set"]) if d not in content["sources"]]]
    for data_set in order:
        part, lines = cells[cells["data_set"] == data_set], []
        if part.empty:
            continue
        page.heading(data_set)
        for (row, ran, experiment, name), own in part.groupby(["row", "ran", "experiment", "class"], sort=False):
            line = {"row": row.removesuffix(f" {data_set}"), "our run": f"{ran}, {experiment}" if ran else "–"}
            line["class"] = name
            for metric, title in METRICS.items():
                cell = own[own["metric"] == metric].iloc[0]
                shown = with_interval(cell["value"], cell["low"], cell["high"]) if ran else ""
                published = "" if pd.isna(cell["published"]) else number(cell["published"], 2)
                line |= {title: shown, f"{title}, paper": published}
            lines.append({**line, "status": own["status"].iloc[0]})
        page.table(without_empty(pd.DataFrame(lines)))
    page.text(_LEGEND)
    for note in content.get("notes") or ():
        page.text(f"Note: {note}")
    by = ["data_set", "row", "ran", "experiment", "status", "details"]
    explained = cells[cells["details"] != ""].drop_duplicates(by)[by]
    if len(explained):
        page.heading("Why")
        grouped = explained.groupby(by[:1] + by[2:], sort=False)["row"].agg("; ".join).reset_index()
        page.table(grouped[by].rename(columns={"ran": "our run"}))
    return page
