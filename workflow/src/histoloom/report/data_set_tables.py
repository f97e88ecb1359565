"""Tables of a paper that have a block of rows per data set: which run is which row, and how they compare.

A cohort is a data set when it has just its samples. A run is a row when its kind, its encoders, its k and, of CMRCNet,
its parts are the row's; what else differs is listed. Nothing random-weighted or of other samples is comparable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from histoloom.metrics.protocol import UNSTATED
from histoloom.report.pages import Page, number
from histoloom.report.published import (
    DEVIATES,
    NOT_COMPARABLE,
    NOT_RUN,
    SAME,
    Published,
    Status,
    compare,
    encoder_cards,
    weights_of,
)
from histoloom.report.results import display_names, pick

CELLS = [
    "table", "data_set", "row", "ran", "experiment", "column", "gene", "value", "n", "n_nan", "status", "details",
    "published", "difference",
]  # fmt: skip
RETRIEVAL = frozenset({"bleep", "cmrcnet"})
_OWN_PARTS = {"loss": "mse", "mask": 0.5, "reconstruction": "image"}
_LEGEND = (
    "same: every choice the paper states agrees; deviates: the same row measured otherwise, as listed; not comparable: "
    "other samples, random weights, or no such row; not run: printed by the paper only. A difference is given for same."
)


@dataclass(frozen=True)
class Run:
    """A model's variant on one cohort: its metric rows over the cohort, and what it is."""

    experiment: str
    name: str
    data_set: str
    rows: pd.DataFrame
    protocol: Mapping[str, Any]
    kind: str
    k: int | None
    parts: Mapping[str, Any]
    n_genes: int

    def is_row(self, row: Mapping[str, Any], column: Mapping[str, Any], whole: bool) -> bool:
        """Whether this is a published row's method in a column; `whole`: the table is a mean over data sets."""
        stamp = {**column["stamp"], **row.get("stamp", {})}
        wanted = row["kind"] if row["kind"] != "any" else column["id"]
        if wanted != self.kind or (row["kind"] != "any" and sorted(row["encoders"]) != encoder_cards(self.protocol)):
            return False
        if not whole and stamp.get("source") != self.data_set:
            return False
        if self.kind == "cmrcnet" and {key: stamp.get(key, own) for key, own in _OWN_PARTS.items()} != self.parts:
            return False
        k = stamp.get("k", 50 if row["kind"] == "any" else None)
        return self.kind not in RETRIEVAL or k is None or k == self.k

    def stamp(self, column: Mapping[str, Any]) -> dict[str, Any]:
        """Return the protocol in the words of published stamps."""
        tiles, target = self.protocol.get("tiles_spec"), self.protocol.get("target") or {}
        tiles = tiles if isinstance(tiles, Mapping) else {}
        cohort = str(self.rows["cohort"].iloc[0])
        scaled = target.get("size_factor") in {"total", "median"} and target.get("log") == "log1p"
        counted = {key: (self.protocol.get(key) or {}).get(cohort) for key in ("n_sections", "n_observations")}
        return {
            "source": self.data_set,
            "split": self.protocol.get("split", UNSTATED),
            "selection": self.protocol.get("selection", UNSTATED),
            "tile_px": tiles.get("size_px", UNSTATED),
            "tile_um_per_px": tiles.get("um_per_px", UNSTATED),
            "target_transform": "log1p of total counts normalised" if scaled else self.protocol.get("units", UNSTATED),
            "n_genes": self.n_genes,
            "k": self.k,
            **self.parts,
            **counted,
            **{key: column["stamp"][key] for key in ("gene_set", "genes") if key in column["stamp"]},
        }


def runs(table: Published, spec: Mapping[str, Any], metrics: pd.DataFrame) -> Iterator[Run]:
    """Yield every run of a paper's experiments, in the config's order."""
    sources = {frozenset(samples): name for name, samples in table.content["sources"].items()}
    rows = pick(metrics, aggregation="cohort", against="labels", train_seed=-1)
    for experiment, entry in spec["experiments"].items():
        for model in entry["models"]:
            own = pick(rows, experiment=experiment, model=model)
            for (_, cohort), part in own.groupby(["variant", "cohort"], sort=False):
                samples = frozenset((entry.get("samples") or {}).get(cohort, ()))
                protocol, settings = json.loads(part["protocol"].iloc[0]), entry["model_specs"][model]
                named = str(entry["sources"].get(cohort, cohort))
                yield Run(
                    experiment=experiment,
                    name=display_names(part.iloc[:1]).iloc[0],
                    data_set=sources.get(samples, named),
                    rows=part,
                    protocol=protocol,
                    kind=str(protocol.get("kind")),
                    k=(protocol.get("variant") or {}).get("k", settings.get("k")),
                    parts=_parts(settings),
                    n_genes=part.loc[part["metric"] == "cc", "target"].replace("", None).nunique(),
                )


def _parts(settings: Mapping[str, Any]) -> dict[str, Any]:
    if settings["kind"] != "cmrcnet":
        return {}
    if settings.get("reconstruct", "image") == "none":
        return dict.fromkeys(_OWN_PARTS, "none")
    return {
        "loss": settings.get("reconstruction_loss", "mse"),
        "mask": settings.get("mask_rate", 0.5),
        "reconstruction": settings.get("reconstruct", "image"),
    }


def _value(run: Run, column: Mapping[str, Any], rank: int) -> pd.Series | None:
    """Return the metric row of a column: over a gene set, or that of the gene of a rank (from 0)."""
    stamp = column["stamp"]
    if stamp["gene_set"] == "best":
        genes = run.rows[(run.rows["metric"] == "cc") & (run.rows["target"] != "")].dropna(subset="value")
        ranked = genes.sort_values(["value", "target"], ascending=[False, True], kind="stable")
        return ranked.iloc[rank] if rank < len(ranked) else None
    rows = pick(run.rows, metric=column["metric"], gene_set=stamp["gene_set"], target="")
    if "genes" in stamp:
        rows = rows[rows["k"] == str(stamp["genes"])]
    return rows.iloc[0] if len(rows) else None


def status_of(table: Published, run: Run, row: Mapping[str, Any] | None, column: Mapping[str, Any]) -> Status:
    """Say whether a run's value may stand next to the published one of a row."""
    if row is None:
        return Status(NOT_COMPARABLE, "the paper has no such row")
    published = {**table.stamp(column), **row.get("stamp", {})}
    stamp = run.stamp(column)
    if table.stamp(column).get("source", "").startswith("mean over"):
        published = {key: value for key, value in published.items() if key != "source"}
    if run.kind not in RETRIEVAL:
        published.pop("k", None)
    status = compare(published, stamp, table.rows[row["id"]], run.protocol)
    if status.status == NOT_COMPARABLE:
        return status
    if "random" in (run.protocol.get("weights"), weights_of(run.protocol)):
        return Status(NOT_COMPARABLE, "random weights")
    changed = run.protocol.get("changed") or {}
    said = [f"{key.replace('_', ' ')} {value}" for key, value in sorted(changed.items()) if key not in _PART_KEYS]
    if not said:
        return status
    before = [status.details] if status.status == DEVIATES else []
    return Status(
        DEVIATES, "; ".join([*before, f"other settings than {run.protocol.get('settings')}: {', '.join(said)}"])
    )


_PART_KEYS = frozenset({"mask_rate", "reconstruct", "reconstruction_loss", "k"})


def data_set_cells(table: Published, spec: Mapping[str, Any], metrics: pd.DataFrame) -> pd.DataFrame:
    """Return every cell, `CELLS`: ours, then the paper's that no run is."""
    content, cells = table.content, []
    whole = str(content["stamp"].get("source", "")).startswith("mean over")
    # What the paper's table has no row of stands in the experiment's own tables.
    kinds = {row["kind"] for row in content["rows"]} | {column["id"] for column in table.columns}
    known = [run for run in runs(table, spec, metrics) if run.kind in kinds]
    if whole:
        known = [run for run in known if run.kind == "cmrcnet" and run.k == 50]
    covered = set()
    for run in known:
        for column in table.columns:
            matched = [row for row in content["rows"] if run.is_row(row, column, whole)]
            best = column["stamp"]["gene_set"] == "best"
            if (best or whole) and not matched:
                continue
            for rank, row in enumerate(matched or [None]):
                value = _value(run, column, rank)
                if value is None:
                    continue
                status = status_of(table, run, row, column)
                named = row["id"] if row is not None else f"{run.data_set} {run.name}"
                cell = {
                    "data_set": run.data_set, "row": named, "ran": run.name, "experiment": run.experiment,
                    "column": column["title"], "gene": value["target"], "value": value["value"], "n": value["n"],
                    "n_nan": value["n_nan"], "status": status.status, "details": status.details,
                }  # fmt: skip
                if row is not None and status.status in {SAME, DEVIATES}:
                    cell["published"] = row["values"].get(column["id"])
                    if status.status == SAME and not whole:
                        cell["difference"] = float(value["value"]) - float(cell["published"])
                    covered.add((row["id"], column["id"]))
                cells.append(cell)
    if whole:
        cells = _means(cells, content)
    for cell, column in table.not_run(covered):
        row = next(row for row in content["rows"] if row["id"] == cell["row"])
        cells.append({**cell, "data_set": row.get("stamp", {}).get("source", ""), "gene": _printed(row, column)})
    frame = pd.DataFrame(cells).reindex(columns=CELLS).assign(table=content["table"])
    return frame.fillna({"experiment": "", "gene": "", "ran": ""})


def _printed(row: Mapping[str, Any], column: Mapping[str, Any]) -> str:
    return str((row.get("printed") or {}).get(column["id"], "")).partition(" ")[0]


def _means(cells: list[dict[str, Any]], content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the mean over data sets of each row and column; one that lacks data sets says how many it has."""
    if not cells:
        return []
    frame, wanted = pd.DataFrame(cells), len(content["sources"])
    split = frame["details"].str.contains("split leave_one_patient_out")
    means = []
    for (row, column, ran, patients), part in frame.groupby(["row", "column", "ran", split], sort=False):
        sets = part.drop_duplicates("data_set")
        first: dict[str, Any] = {str(key): value for key, value in sets.iloc[0].items()}
        details = sorted({text for text in sets["details"] if text})
        status = first["status"]
        if len(sets) < wanted or not set(sets["data_set"]) <= set(content["sources"]):
            details.insert(0, f"{len(sets)} of {wanted} data sets: {', '.join(sets['data_set'])}")
            status = status if status == NOT_COMPARABLE else DEVIATES
        first |= {
            "data_set": "", "row": row, "column": column, "ran": ran, "value": float(sets["value"].mean()),
            "experiment": "patients held out" if patients else "samples held out", "status": status,
            "details": "; ".join(details),
        }  # fmt: skip
        means.append(first)
    return means


def data_set_page(table: Published, cells: pd.DataFrame) -> Page:
    """Lay cells out by data set: models by columns, ours and the paper's side by side."""
    content = table.content
    page = Page(f"Table {content['table']} of {content['paper']}: {content['title']}")
    page.text(content["citation"] + ".")
    decimals = {column["title"]: int(column["decimals"]) for column in table.columns}
    order = [*content["sources"], *[d for d in dict.fromkeys(cells["data_set"]) if d not in content["sources"]]]
    for data_set in order:
        part = cells[cells["data_set"] == data_set]
        if part.empty:
            continue
        if data_set:
            page.heading(data_set)
        lines = []
        for (row, ran, experiment), own in part.groupby(["row", "ran", "experiment"], sort=False):
            line = {"row": row, "our run": f"{ran}, {experiment}" if ran else "–"}
            for column in table.columns:
                cell = own[own["column"] == column["title"]]
                ours, published = ("", "")
                if len(cell):
                    first = cell.iloc[0]
                    gene = f"{first['gene']} " if first["gene"] else ""
                    own_value = f"{gene}{number(first['value'], decimals[column['title']])}"
                    ours = own_value if first["status"] != NOT_RUN else ""
                    published = "" if pd.isna(first["published"]) else number(first["published"], 4)
                    published = f"{gene}{published}" if first["status"] == NOT_RUN else published
                line |= {f"{column['title']}, ours": ours, f"{column['title']}, published": published}
            lines.append({**line, "status": "; ".join(dict.fromkeys(own["status"]))})
        page.table(without_empty(pd.DataFrame(lines)))
    page.text(_LEGEND)
    for note in content.get("notes") or ():
        page.text(f"Note: {note}")
    explained = cells[(cells["status"] != NOT_RUN) & (cells["details"] != "")]
    if len(explained):
        page.heading("Why")
        by = ["data_set", "row", "ran", "experiment", "status", "details"]
        page.table(explained.drop_duplicates(by)[by].rename(columns={"ran": "our run"}))
    return page


def without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out columns that no row fills."""
    frame = frame.fillna("")
    return frame[[c for c in frame.columns if (frame[c] != "").any()]]
