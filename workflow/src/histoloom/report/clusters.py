"""Tables of clusters and niches: agreement with labels, enrichment of labels, composition, contacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import Table, read_table
from histoloom.cells.agreement import agreement
from histoloom.cells.enrichment import enrichment, fold_interval
from histoloom.cells.niches import contact_graph, neighbourhood_enrichment
from histoloom.errors import InputError
from histoloom.paths import CLUSTERS_TABLES
from histoloom.report.clusters_figure import draw_clusters
from histoloom.report.pages import Page, number, with_interval
from histoloom.samples.section import open_section

NICHES = "niches"


def describe_clusters(*, spec: Mapping[str, Any], cells: Path, sample: Path, out: Mapping[str, Path]) -> None:
    """Write the tables of a section (`describe`) as csv, and its ``figure``, from what `cluster_cells` wrote."""
    table = read_table(cells, obsm=["spatial", *(f"umap_{r['name']}" for r in spec["representations"])])
    section = open_section(sample)
    tables = describe(table, spec)
    for name, frame in tables.items():
        frame.insert(0, "cohort", section.cohort)
        frame.insert(1, "sample", section.sample)
        _write_csv(frame, out[name])
    draw_clusters(cells=table, spec=spec, section=section, tables=tables, out=out["figure"])


def report_clusters(*, spec: Mapping[str, Any], tables: Mapping[str, Sequence[Path]], out: Mapping[str, Path]) -> None:
    """Join the tables of all sections, by name, and write their page as ``md`` and ``html``."""
    whole = {name: pd.concat(map(_read, tables[name]), ignore_index=True) for name in CLUSTERS_TABLES}
    for name, table in whole.items():
        _write_csv(table, out[name])
    _page(whole, spec).write(whole["agreement"], {role: out[role] for role in ("md", "html")})


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    # Six digits and not six decimals: p and q are tiny.
    frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def _read(path: Path) -> pd.DataFrame:
    # Clusters are called by numbers, and a class may be called "NA".
    text = dict.fromkeys(("cohort", "sample", "cluster", "label", "first", "second", "representation", "minus"), str)
    frame = pd.read_csv(path, dtype=text, keep_default_na=False, na_values={})
    numbers = [str(name) for name in frame if name not in text and name not in {"measure", "grouping"}]
    for name in numbers:
        frame[name] = pd.to_numeric(frame[name])
    return frame


def describe(cells: Table, spec: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the `histoloom.paths.CLUSTERS_TABLES` of a section; ``grouping`` is a representation, or ``niches``.

    Agreement is of clustered cells, enrichment and composition of a representation too; niches and contacts are of all
    cells.
    """
    names, seed = [r["name"] for r in spec["representations"]], spec["seed"]
    obs, own = cells.obs, cells.obs[cells.obs["clustered"].astype(bool)]
    if not len(own):
        problem, remedy = "no cell was clustered.", "cluster all cells, or name another fold."
        raise InputError(spec["name"], problem, remedy, code="clusters-none")
    groupings = {name: (own, own[f"cluster_{name}"]) for name in names} | {NICHES: (obs, obs["niche"])}
    enriched, composed = [], []
    for grouping, (rows, groups) in groupings.items():
        folds = enrichment(rows["label"], groups, spec["min_cells"])
        interval = fold_interval(rows["label"], groups, rows["block"], spec["n_bootstrap"], seed)
        enriched.append(folds.merge(interval, "left", ["cluster", "label"]).assign(grouping=grouping))
        counts = pd.crosstab(groups.to_numpy(), rows["label"].to_numpy())
        long = counts.rename_axis(index="cluster").reset_index().melt("cluster", var_name="label", value_name="n")
        size = long.groupby("cluster")["n"].transform("sum")
        composed.append(long.assign(share=long["n"] / size, grouping=grouping))
    agreed = agreement(
        {name: own[f"cluster_{name}"] for name in names}, own["label"], own["block"], spec["n_bootstrap"], seed
    )
    um = obs[["x", "y"]].to_numpy(float) * obs[["um_per_px"]].to_numpy(float)
    contacts = neighbourhood_enrichment(
        contact_graph(um, spec["contact_um"]), obs["label"], obs["block"], spec["n_permutations"], seed
    )
    order = ["grouping", "cluster", "label", "n", "expected", "fold", "low", "high", "p", "q"]
    return {
        "agreement": agreed,
        "enrichment": pd.concat(enriched, ignore_index=True)[order],
        "composition": pd.concat(composed, ignore_index=True)[["grouping", "cluster", "label", "n", "share"]],
        "contacts": contacts,
    }


def _page(tables: Mapping[str, pd.DataFrame], spec: Mapping[str, Any]) -> Page:
    names = [r["name"] for r in spec["representations"]]
    page = Page(f"Clusters and niches: {spec['name']}")
    which = "test cells of fold" if spec["cells"] == "test" else "all cells; projections of fold"
    way = "" if spec["n_iterations"] < 0 else f", {spec['n_iterations']} iterations"
    page.text(
        f"Experiment {spec['experiment']}, {which} {spec['fold']}. Graph of {spec['neighbours']} neighbours, Leiden "
        f"({spec['leiden']}, resolution {spec['resolution']:g}{way}). Intervals: 95 %, {spec['n_bootstrap']} draws of "
        f"blocks of {spec['block_um']:g} um."
    )
    page.heading("Agreement of clusters with labels")
    page.table(_agreement_shown(tables["agreement"]))
    if len(names) > 1:
        page.text(f"Rows with a minus are paired differences from {names[0]}: same cells, same draws of blocks.")
    page.text("Purity grows with the number of clusters; ARI and NMI hardly do.")
    enriched = tables["enrichment"]
    for grouping in [*names, NICHES]:
        own = enriched[enriched["grouping"] == grouping]
        page.heading(
            f"Labels enriched in {grouping}" if grouping == NICHES else f"Labels enriched in clusters of {grouping}"
        )
        page.table(_enriched_shown(own[own["low"] > 1].sort_values("fold", ascending=False, kind="stable")))
    page.text(
        "Listed: pairs whose fold is above 1 in its whole interval, the twelve largest folds of a section. q is of "
        "Fisher's exact test, one-sided, corrected by Benjamini and Hochberg, as published: it takes neighbouring "
        "cells for independent and is near 0 with many cells whatever the effect. Read the fold."
    )
    page.heading("Contacts between labels")
    page.table(_contacts_shown(tables["contacts"]))
    page.text(
        f"Cells in contact at up to {spec['contact_um']:g} um against {spec['n_permutations']} permutations of labels "
        "within blocks; the most and the least frequent pairs of a section by z."
    )
    return page


def _agreement_shown(table: pd.DataFrame) -> pd.DataFrame:
    cells = table.assign(shown=[with_interval(*row) for row in table[["value", "low", "high"]].to_numpy()])
    keys = ["sample", "representation", "minus", "clusters", "n"]
    wide = cells.set_index([*keys, "measure"])["shown"].unstack(sort=False).reset_index()
    names = [r + (f" minus {m}" if m else "") for r, m in zip(wide["representation"], wide["minus"], strict=True)]
    wide = wide.assign(representation=names).drop(columns="minus")
    return wide.rename(columns={"ari": "ARI", "nmi": "NMI", "purity": "purity", "n": "cells"}).rename_axis(columns=None)


def _enriched_shown(table: pd.DataFrame) -> pd.DataFrame:
    top = table.groupby("sample", sort=False).head(12)
    fold = [with_interval(*row) for row in top[["fold", "low", "high"]].to_numpy()]
    q = [f"{value:.1e}" if value else "0" for value in top["q"]]
    return top[["sample", "cluster", "label", "n"]].assign(fold=fold, q=q)


def _contacts_shown(table: pd.DataFrame) -> pd.DataFrame:
    # A pair stands twice, once in each order.
    once = table[table["first"] <= table["second"]].sort_values("z", ascending=False, kind="stable").dropna(subset="z")
    shown = []
    for _, own in once.groupby("sample", sort=False):
        ends = np.unique(np.r_[:4, len(own) - 4 : len(own)])
        shown.append(own.iloc[ends[(ends >= 0) & (ends < len(own))]])
    if not shown:
        return table.head(0)
    rows = pd.concat(shown)
    least = rows[["p_more", "p_fewer"]].min(axis=1)
    return pd.DataFrame(
        {
            "sample": rows["sample"],
            "labels": rows["first"] + " and " + rows["second"],
            "contacts": rows["contacts"],
            "ratio to expected": [number(v, 2) for v in rows["contacts"] / rows["expected"]],
            "z": [number(v, 1) for v in rows["z"]],
            "p, one-sided": [number(v, 4) for v in least],
        }
    )
