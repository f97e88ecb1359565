"""Expression scored three ways from the same predictions: ours, as CMRCNet published, as HEST-bench does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.metrics.gene_sets import GeneSets
from histoloom.metrics.rows import read_metrics
from histoloom.report.pages import Page, listed, mark_best, number
from histoloom.report.results import pick, read_results

WAYS = {"pcc_panel": "ours", "pcc_published": "as published", "pcc_bench_panel": "HEST-bench's"}
SETS = {"heg": "most expressed", "hvg": "most variable", "marker": "markers"}
_READING = (
    "ours: correlation per gene within a section, genes chosen on the fold's training sections, undefined genes left "
    "out and counted, mean over sections of a patient, then patients. as published (CMRCNet's code): genes with the "
    "largest sum or variance in the test section's own truth, an undefined gene as 0, mean over sections of a fold, "
    "then folds. HEST-bench's: correlation over all observations of a test fold together, genes chosen on raw counts "
    "of all sections, mean over folds; its own numbers are of log1p of raw counts, which these predictions need not be."
)


def set_ceilings(sets: GeneSets, metrics: pd.DataFrame, ceilings: pd.DataFrame) -> pd.DataFrame:
    """Return the mean ceiling of each set's genes: gene_set, k, value.

    As `pcc_panel` is rolled up: genes as the section's fold ranks them, then sections of a patient, then patients.
    `metrics` say which section was tested in which fold, with which genes; `ceilings` are rows of a ceiling check.
    """
    keys = ["cohort", "sample", "target"]
    known = pick(ceilings, metric="ceiling", aggregation="section", qc_flag="")
    by_gene = known[known["target"] != ""].set_index(keys)["value"]
    tested = pick(metrics, metric="cc", aggregation="section", against="labels", train_seed=-1, qc_flag="")
    tested = tested[tested["target"] != ""].drop_duplicates(["fold", "patient", *keys])
    rows = []
    for (fold, cohort, sample, patient), part in tested.groupby(["fold", "cohort", "sample", "patient"], sort=True):
        for name, k, genes in sets.on_train(part["target"].tolist(), str(fold)):
            value = by_gene.reindex([(cohort, sample, gene) for gene in genes]).mean()
            rows.append({"gene_set": name, "k": str(k), "patient": patient, "sample": sample, "value": value})
    if not rows:
        return pd.DataFrame(columns=["gene_set", "k", "value"])
    patients = pd.DataFrame(rows).groupby(["gene_set", "k", "patient"])["value"].mean().reset_index()
    return patients.groupby(["gene_set", "k"])["value"].mean().reset_index()


def protocol_table(rows: pd.DataFrame, models: Sequence[str], ceilings: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return a row per model and gene set: three numbers, genes averaged and undefined, the ceiling if known."""
    chosen = rows[(rows["aggregation"] == "cohort") & (rows["train_seed"] == -1) & rows["metric"].isin(WAYS)]
    # A set of which nothing is predicted stays in the table, undefined.
    wide = chosen.set_index(["model", "gene_set", "k", "metric"])["value"].unstack("metric")
    wide = wide.reindex(columns=list(WAYS)).reset_index()
    sections = pick(rows, metric="pcc_panel", aggregation="section", train_seed=-1)
    counts = sections.groupby(["model", "gene_set", "k"])[["n", "n_nan"]].mean().round(1).reset_index()
    table = wide.merge(counts, on=["model", "gene_set", "k"], how="left")
    table = table.rename(columns={"n": "genes", "n_nan": "undefined"})
    if ceilings is not None and len(ceilings):
        table = table.merge(ceilings.rename(columns={"value": "ceiling"}), on=["gene_set", "k"], how="left")
    order = {name: i for i, name in enumerate([*SETS, *models])}
    key = table.assign(size=table["k"].astype(int), place=table["gene_set"].map(order), who=table["model"].map(order))
    return table.loc[key.sort_values(["place", "size", "who"]).index].reset_index(drop=True)


def flattery(table: pd.DataFrame, baselines: Sequence[str]) -> pd.DataFrame:
    """Return what each way adds to ours, mean over models that are no baseline: gene_set, k, then by way."""
    own = table[~table["model"].isin(list(baselines))]
    gains = {WAYS[way]: own[way] - own["pcc_panel"] for way in list(WAYS)[1:]}
    return own[["gene_set", "k"]].assign(**gains).groupby(["gene_set", "k"], sort=False).mean().reset_index()


def limits(protocol: Mapping[str, Any]) -> list[str]:
    """Return sentences on what the patients of an experiment can show."""
    patients = sum((protocol.get("n_patients") or {}).values())
    said = []
    if patients == 1:
        said.append(
            "All sections are of one patient: these numbers say how well sections of a person are predicted from other "
            "sections of the same person, and nothing about new patients."
        )
    elif patients == 2:
        said.append("Two patients: two points, from which no spread over patients can be estimated.")
    if shared := protocol.get("overlap_patients") or []:
        said.append(
            f"In training and test of one fold at once: {listed(list(shared))}. Their sections share tissue and stain, "
            "so the numbers are higher than for new patients."
        )
    return said


def write_protocols(
    *,
    spec: Mapping[str, Any],
    metrics: Sequence[Path],
    sets: GeneSets,
    ceilings: Sequence[Path],
    out: Mapping[str, Path],
) -> None:
    """Write the table as ``csv``, ``md`` and ``html``; `ceilings` are rows of checks of kind expression_ceiling."""
    results = read_results(str(spec["name"]), spec, metrics)
    known = set_ceilings(sets, results.rows, read_metrics(ceilings)) if ceilings else None
    table = protocol_table(results.measured(), results.models, known)
    low = {str(item["model"]) for item in spec.get("baselines") or () if item["baseline"]}
    base = results.rows.drop_duplicates("model").set_index("model")["base"]
    baselines = [model for model in results.models if base[model] in low]
    page = Page(f"{results.title}: the same predictions scored three ways")
    protocol = json.loads(results.rows["protocol"].iloc[0])
    for sentence in limits(protocol):
        page.text(sentence)
    observed = "; ".join(f"{name}: {n}" for name, n in (protocol.get("spots") or {}).items())
    if observed:
        page.text(f"Spots. {observed}.")
    for (gene_set, k), part in table.groupby(["gene_set", "k"], sort=False):
        page.heading(f"{k} {SETS[str(gene_set)]}" + (" genes" if gene_set != "marker" else ""))
        shown = pd.DataFrame({"model": part["model"]})
        for way, name in WAYS.items():
            shown[name] = mark_best([number(v) for v in part[way]], part[way])
        if "ceiling" in part:
            shown["ceiling"] = [number(v) for v in part["ceiling"]]
        shown["genes in a section"] = [f"{n:g}" for n in part["genes"]]
        shown["undefined or absent"] = [f"{n:g}" for n in part["undefined"]]
        page.table(shown)
        if gene_set == "marker" and (absent := _absent(sets, results.rows)):
            page.text(f"Not predicted in any section: {listed(absent, 20)}.")
    gains = flattery(table, baselines)
    if len(gains):
        page.heading("What each way adds to ours")
        page.text("Mean difference over models that are no baseline.")
        names = {"gene_set": [SETS[name] for name in gains["gene_set"]], "k": gains["k"]}
        added = {
            way: [f"{v:+.3f}" if np.isfinite(v) else number(v) for v in gains[way]] for way in list(WAYS.values())[1:]
        }
        page.table(pd.DataFrame({**names, **added}).rename(columns={"gene_set": "genes"}))
    page.text(_READING)
    page.write(table, out)


def _absent(sets: GeneSets, rows: pd.DataFrame) -> list[str]:
    predicted = set(rows.loc[rows["metric"] == "cc", "target"])
    return [gene for gene in sets.markers if gene not in predicted]
