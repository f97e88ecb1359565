"""A paper's tables: its layout, our runs under their own names, its rows that did not run, a status in every cell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from histoloom.metrics.rows import read_metrics
from histoloom.report.class_tables import class_cells, class_page
from histoloom.report.coloc import FORM_NAMES
from histoloom.report.data_set_tables import data_set_cells, data_set_page
from histoloom.report.efficiency import efficiency_page, efficiency_table
from histoloom.report.pages import Page, number
from histoloom.report.published import (
    DEVIATES,
    NOT_RUN,
    SAME,
    Published,
    encoder_cards,
    load_published,
    run_stamp,
)
from histoloom.report.results import display_names, pick

CELL_COLUMNS = [
    "table", "row", "ran", "experiment", "column", "metric", "form", "value", "n", "n_nan", "status", "details",
    "published", "difference",
]  # fmt: skip
_FORMS = {"diag1_row": "diagonal 1", "nodiag_row": "without diagonal"}
WIDE = 6
"""Columns from which on a table is laid out as a leaderboard."""
_LEGEND = (
    "same: every choice the paper states agrees, a difference is printed; deviates: measured otherwise, as listed; "
    "not comparable: another cohort, labels, model or weights; not run: a row of the paper that no run "
    "is, as printed there."
)


def _runs(metrics: pd.DataFrame, spec: Mapping[str, Any]) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Yield experiment, model, cohort and rows (those of a variant apart), in the config's order."""
    rows = pick(metrics, aggregation="cohort", against="labels", target="", train_seed=-1)
    for experiment, entry in spec["experiments"].items():
        for model in entry["models"]:
            own = pick(rows, experiment=experiment, model=model)
            for (_, cohort), part in own.groupby(["variant", "cohort"], sort=True):
                yield experiment, model, str(cohort), part


def _undefined(metrics: pd.DataFrame, row: pd.Series) -> int:
    """Return the genes without a correlation in the folds that a value is the mean of."""
    place = {name: row[name] for name in ("experiment", "model", "variant", "metric", "cohort")}
    return int(pick(metrics, aggregation="fold", target="", **place)["n_nan"].sum())


def describe(protocol: Mapping[str, Any]) -> str:
    """Return what ran: the model's kind on its encoders."""
    cards = encoder_cards(protocol)
    return str(protocol.get("kind", "unstated")) + (f" on {'+'.join(cards)}" if cards else "")


def _own_column(metric: str, entry: Mapping[str, Any], cohort: str) -> str:
    names = {"coloc_cosine": "cosine similarity", "coloc_correlation": "correlation", "l1": "L1", "cc": "CC"}
    trained = "+".join(entry.get("train_cohorts") or [])
    place = f"{trained} to {cohort}," if trained else cohort
    return f"{place} {names.get(metric, metric)}"


def _cell(
    table: Published, entry: Mapping[str, Any], cohort: str, row: pd.Series, form: str, undefined: int
) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """Return a run's cell and, where it fills one, the published cell (row, column) it stands for."""
    protocol = {**json.loads(row["protocol"]), "undefined_genes": undefined}
    model = (entry.get("model_specs") or {}).get(row["model"])
    stamp = {**run_stamp(protocol, entry, cohort, model), "diagonal": _FORMS.get(form, "")}
    column, published_row, status = table.place(row["metric"], stamp, protocol)
    title = column["title"] if column else _own_column(row["metric"], entry, cohort)
    cell: dict[str, Any] = {
        "row": display_names(row.to_frame().T).iloc[0], "ran": describe(protocol),
        "column": title + (f" ({_FORMS[form]})" if form else ""),
        "metric": row["metric"], "form": form, "value": row["value"], "n": row["n"], "n_nan": row["n_nan"],
        "status": status.status, "details": status.details,
    }  # fmt: skip
    if column is None or published_row is None or status.status not in {SAME, DEVIATES}:
        return cell, None
    cell["published"] = published_row.values.get(column["id"])
    if status.status == SAME and cell["published"] is not None:
        cell["difference"] = float(row["value"]) - float(cell["published"])
    return cell, (published_row.name, column["id"])


def paper_cells(table: Published, spec: Mapping[str, Any], metrics: pd.DataFrame) -> pd.DataFrame:
    """Return every cell of a published table's layout, `CELL_COLUMNS`: ours first, then the paper's that did not run.

    A table has the layout ``cohort`` (experiments that train and test on the same cohorts) or ``transfer``.
    """
    layout = table.content["layout"]
    wanted = list(dict.fromkeys(column["metric"] for column in table.columns))
    cells: list[dict[str, Any]] = []
    covered: set[tuple[str, str]] = set()
    for experiment, _, cohort, rows in _runs(metrics, spec):
        entry = spec["experiments"][experiment]
        if (entry["split"] == "transfer") != (layout == "transfer"):
            continue
        for metric in wanted:
            for form in _FORMS if metric.startswith("coloc") else ("",):
                for _, row in rows[(rows["metric"] == metric) & (rows["gene_set"] == form)].iterrows():
                    cell, stands_for = _cell(table, entry, cohort, row, form, _undefined(metrics, row))
                    cells.append({**cell, "experiment": experiment})
                    covered |= {stands_for} if stands_for else set()
    cells += [{**cell, "metric": column["metric"]} for cell, column in table.not_run(covered)]
    frame = pd.DataFrame(cells).reindex(columns=CELL_COLUMNS)
    frame = frame.assign(table=table.content["table"]).fillna({"experiment": "", "form": "", "n": 0, "n_nan": 0})
    return frame.astype({"n": int, "n_nan": int})


def _shown(cell: Mapping[str, Any], digits: int = 2, *, wide: bool = False) -> str:
    """Return a cell for people; `digits` as printed; a wide table says what did not run in the row's head."""
    if cell["status"] == NOT_RUN:
        value = number(cell["published"], digits)
        return value if wide else f"{value} published; not run: {cell['details']}"
    text = f"{number(cell['value'], max(3, digits))}; {cell['status']}"
    if cell["status"] in {SAME, DEVIATES} and not pd.isna(cell["published"]):
        text += f"; published {number(cell['published'], digits)}"
    if cell["status"] == SAME:
        text += f", difference {number(cell['difference'], digits)}"
    return text


def map_similarity(spec: Mapping[str, Any], metrics: pd.DataFrame) -> pd.DataFrame:
    """Return how alike the colocalization maps of runs and of labels are in every form, a row per run and cohort.

    The paper says "row-wise" and not what the diagonal is, and the forms differ.
    """
    rows = []
    for experiment, _, cohort, part in _runs(metrics, spec):
        value = part[part["metric"].str.startswith("coloc_")].set_index(["metric", "gene_set"])["value"]
        if len(value):
            shown = {"model": display_names(part).iloc[0], "experiment": experiment, "cohort": cohort}
            for metric in ("cosine", "correlation"):
                for form, name in FORM_NAMES.items():
                    shown[f"{metric}, {name}"] = number(value.get((f"coloc_{metric}", form), float("nan")))
            rows.append(shown)
    return pd.DataFrame(rows)


def paper_page(table: Published, cells: pd.DataFrame, similarity: pd.DataFrame | None = None) -> Page:
    """Lay cells out as the paper does: models by columns; `similarity` of maps in every form comes after them."""
    content = table.content
    page = Page(f"Table {content['table']} of {content['paper']}: {content['title']}")
    page.text(content["citation"] + ".")
    columns = [c for c in dict.fromkeys(cells["column"]) if (cells["column"] == c).any()]
    decimals = {column["title"]: int(column["decimals"]) for column in table.columns}
    rows = []
    # A leaderboard has one experiment per column: a model is one row, and its cells are short.
    wide = len(columns) > WIDE
    if wide:
        place = {column["title"]: i for i, column in enumerate(table.columns)}
        columns = sorted(columns, key=lambda title: place.get(title, len(place)))
    # A run may have the name of a row of the paper, whose values are none of its own.
    printed = (cells["status"] == NOT_RUN).rename("printed")
    for key, part in cells.groupby(["row", printed] if wide else ["row", "experiment"], sort=False):
        ran = next(filter(None, part["ran"]), "")
        records = [dict(zip(part.columns, cell, strict=True)) for cell in part.itertuples(index=False)]
        cells_shown = [_shown(cell, decimals.get(cell["column"], 2), wide=wide) for cell in records]
        shown = dict(zip(part["column"], cells_shown, strict=True))
        origin = ran or (f"paper; not run: {part['details'].iloc[0]}" if wide else "paper")
        head = {"model": f"{key[0]} ({origin})"} | ({} if wide else {"experiment": key[1] or "–"})
        rows.append(head | {column: shown.get(column, "") for column in columns})
    page.table(pd.DataFrame(rows))
    page.text(_LEGEND)
    if similarity is not None and len(similarity):
        page.heading("Similarity of the colocalization maps in all forms")
        page.table(similarity)
    explained = cells[(cells["status"] != NOT_RUN) & (cells["details"] != "")]
    if len(explained):
        page.heading("Why")
        by = ["row", "experiment", "status", "details"]
        why = explained.groupby(by, sort=False)["column"].agg("; ".join).reset_index()
        page.table(why[["row", "experiment", "column", "status", "details"]])
    return page


def write_paper_table(
    *,
    spec: Mapping[str, Any],
    number_of_table: int,
    metrics: Sequence[Path],
    efficiency: Sequence[Path],
    published_dir: Path,
    out: Mapping[str, Path],
) -> None:
    """Write one table of a paper as ``csv``, ``md`` and ``html``.

    `spec` holds ``paper`` and ``experiments``: entries by name, each with ``sources`` by cohort, ``label_spec`` and
    ``model_specs``.
    """
    table = load_published(published_dir, spec["paper"])[number_of_table]
    rows = read_metrics(metrics)
    if table.content["layout"] == "efficiency":
        cells = efficiency_table(table, spec, rows, efficiency)
        efficiency_page(table, cells).write(cells, out)
    elif table.content["layout"] == "data_sets":
        cells = data_set_cells(table, spec, rows)
        data_set_page(table, cells).write(cells, out)
    elif table.content["layout"] == "classes":
        cells = class_cells(table, spec, rows)
        class_page(table, cells).write(cells, out)
    else:
        cells = paper_cells(table, spec, rows)
        maps = any(column["metric"].startswith("coloc") for column in table.columns)
        paper_page(table, cells, map_similarity(spec, rows) if maps else None).write(cells, out)
