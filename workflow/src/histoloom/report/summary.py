"""The summary of an experiment: models by cohorts, the headline with its amplitude, and what it was made under."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.metrics.protocol import short
from histoloom.metrics.uncertainty import MIN_PATIENTS, bootstrap_interval, compare_models
from histoloom.report.pages import Page, listed, mark_best, number, spread_ratio, with_interval
from histoloom.report.results import Results, Words, overall, pick, single, sort_by

_COLOC_FORM = "nodiag_row"
_PLACE = ["model", "cohort", "against"]
_COUNTS = ["n_patients", "n_patients_nan", "n_sections", "n_types", "n_nan"]
_COHORT_METRICS = {
    True: ["sd_ratio", "slope", "l1", "l1_mean_predictor", "l1_skill"],
    False: ["balanced_accuracy", "accuracy", "log_loss", "ece", "macro_f1_majority"],
}
SUMMARY_COLUMNS = [
    "model", "variant", "cohort", "qc_flag", "against", "cc", "cc_low", "cc_high", "cc_seed_sd", "sd_ratio", "slope",
    "cc_pooled_patient", "cc_pooled", "cc_pooled_between", "cc_pooled_section_mean", "cc_spot", "cc_bench",
    "l1", "l1_mean_predictor", "l1_skill", "coloc_cosine", "coloc_correlation", *_COUNTS, "protocol",
]  # fmt: skip
_READING = (
    "CC: Pearson's r per {item} over the {observation}s of a section, mean over {items}, sections of a patient, then "
    "patients. CC says nothing of amplitude: the SD ratio is the spread of the prediction over that of the label "
    "within a section (⚠: below 0.1, a nearly flat prediction), the slope that of the prediction on the label. Skill = "
    "1 - L1 / L1 of the training mean: below 0 is worse than that mean. Interval: bootstrap over patients, from "
    f"{MIN_PATIENTS} patients on. Bold: the best of a column, models that see test labels aside."
)
_POOLED = (
    "Pooling puts the {observation}s of a patient or of all patients together first and so rewards knowing a section's "
    "mean: next to it stand the part that lies between sections and what a predictor of section means alone would "
    "reach."
)
_READING_CLASSES = (
    "Macro F1: F1 per class, mean over classes, then sections of a patient, then patients. Balanced accuracy: mean "
    f"recall over classes. Interval: bootstrap over patients, from {MIN_PATIENTS} patients on."
)
_MARKS = {"uses_test_labels": "sees test labels", "transductive": "transductive", "tuned_on_test": "tuned on test"}


def summarise(results: Results) -> pd.DataFrame:
    """Return one row per model, cohort and reference, and one more for each QC flag: the means of flagged sections.

    Columns are `SUMMARY_COLUMNS`, for classes with the metrics of classes in place of correlations.
    """
    score = results.words.score
    rows = results.rows[~results.rows["metric"].str.startswith("morans_r")]
    summaries = []
    for key, part in rows.groupby(_PLACE, sort=True, observed=True):
        place = dict(zip(_PLACE, key, strict=True))
        place |= {"model": part["base"].iloc[0], "variant": part["variant"].iloc[0], "name": place["model"]}
        for flag, of_flag in part.groupby("qc_flag", sort=True):
            if (of_flag["aggregation"] == "section").any():
                row = _cohort_row(of_flag, results) if flag == "" else _flagged_row(of_flag, results)
                summaries.append({**place, "qc_flag": flag, "protocol": part["protocol"].iloc[0], **row})
    if score == "cc":
        columns = SUMMARY_COLUMNS
    else:
        columns = ["model", "variant", "cohort", "qc_flag", "against", score, f"{score}_low", f"{score}_high",
                   f"{score}_seed_sd", *_COHORT_METRICS[False], *_COUNTS, "protocol"]  # fmt: skip
    table = pd.DataFrame(summaries).reindex(columns=[*columns, "name"])
    return sort_by(table, ["qc_flag", "cohort", "against", "name"], name=results.models)


def cohort_means(results: Results) -> pd.DataFrame:
    """Return the rows of `summarise` against the headline's reference without flagged sections, by cohort and model."""
    table = summarise(results)
    table = table[(table["against"] == results.reference) & (table["qc_flag"] == "")]
    return table.set_index(["cohort", "name"])


def _counts(rows: pd.DataFrame, words: Words) -> dict[str, int]:
    patients = overall(rows, "patient", words.score)["value"]
    sections = pick(rows, aggregation="section", metric=words.item_score)
    sections = sections[sections["target"] != ""]
    return {
        "n_patients": int(patients.notna().sum()),
        "n_patients_nan": int(patients.isna().sum()),
        "n_sections": int(sections["sample"].nunique()),
        "n_types": int(sections["target"].nunique()),
        "n_nan": int(sections["value"].isna().sum()),
    }


def _cohort_row(rows: pd.DataFrame, results: Results) -> dict[str, Any]:
    """Return the means over a cohort's patients."""
    score, correlates = results.words.score, results.words.correlates
    interval = bootstrap_interval(overall(rows, "patient", score)["value"].to_numpy()) or (np.nan, np.nan)
    seeds = rows[(rows["train_seed"] >= 0) & (rows["metric"] == score) & (rows["target"] == "")]["value"]
    row = {
        score: single(overall(rows, "cohort", score)),
        f"{score}_low": interval[0],
        f"{score}_high": interval[1],
        f"{score}_seed_sd": float(seeds.std(ddof=1)) if len(seeds) > 1 else np.nan,
        **{metric: single(overall(rows, "cohort", metric)) for metric in _COHORT_METRICS[correlates]},
        **_counts(rows, results.words),
    }
    if correlates:
        together = rows[rows["patient"] == ""]
        coloc = pick(rows, gene_set=_COLOC_FORM)
        row |= {
            "cc_pooled_patient": single(overall(together, "pooled_patient", "cc")),
            "cc_pooled": single(overall(rows, "pooled", "cc")),
            "cc_pooled_between": single(overall(rows, "pooled", "cc_between")),
            "cc_pooled_section_mean": single(overall(rows, "pooled", "cc_section_mean")),
            "cc_spot": single(overall(together, "spot", "cc")),
            "cc_bench": single(overall(rows, "cohort", "pcc_bench")),
            **{name: single(overall(coloc, "cohort", name)) for name in ("coloc_cosine", "coloc_correlation")},
        }
    return row


def _flagged_row(rows: pd.DataFrame, results: Results) -> dict[str, Any]:
    """Return the means over the patients of flagged sections, which enter no other mean."""
    metrics = [results.words.score, *_COHORT_METRICS[results.words.correlates]]
    patients = {name: float(overall(rows, "patient", name)["value"].mean()) for name in metrics}
    return {**patients, **_counts(rows, results.words)}


def _headline(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Return the narrow table of the headline; the best value of a cohort and reference is bold."""
    words = results.words
    seeing = [bool(json.loads(text).get("uses_test_labels")) for text in table["protocol"]]
    parts = []
    for key, rows in table.assign(_sees=seeing).groupby(["cohort", "against", "qc_flag"], sort=False):
        cohort, against, flag = map(str, key)
        fair = ~rows["_sees"]
        bounds = rows[[words.score, f"{words.score}_low", f"{words.score}_high"]]
        interval = [with_interval(*values) for values in bounds.to_numpy()]
        shown = pd.DataFrame({"model": [_format_value(row) for row in rows.to_dict("records")]})
        shown["cohort"] = cohort + (f" [{flag}]" if flag else "")
        shown["against"] = against
        shown[words.score_name] = mark_best(interval, rows[words.score].where(fair))
        shown["sd over seeds"] = [number(value) for value in rows[f"{words.score}_seed_sd"]]
        if words.correlates:
            shown["SD ratio"] = [spread_ratio(value) for value in rows["sd_ratio"]]
            shown["slope"] = [number(value, 2) for value in rows["slope"]]
            if rows["cc_bench"].notna().any():
                shown["CC, HEST-bench's way"] = [number(value) for value in rows["cc_bench"]]
            shown["L1"] = mark_best([number(v) for v in rows["l1"]], rows["l1"].where(fair), lower=True)
            shown["skill"] = mark_best([number(v) for v in rows["l1_skill"]], rows["l1_skill"].where(fair))
        else:
            for metric in _COHORT_METRICS[False]:
                if rows[metric].notna().any():
                    shown[metric.replace("_", " ")] = [number(value) for value in rows[metric]]
        shown["patients"] = [
            f"{row['n_patients']}" + (f" (+{row['n_patients_nan']} undefined)" if row["n_patients_nan"] else "")
            for row in rows.to_dict("records")
        ]
        shown["sections"] = rows["n_sections"].astype(str).to_numpy()
        parts.append(shown)
    return _without_constants(pd.concat(parts, ignore_index=True)) if parts else pd.DataFrame()


def _without_constants(shown: pd.DataFrame) -> pd.DataFrame:
    """Return a table without those of some columns that say the same in every row."""
    columns = ("cohort", "against", "sd over seeds")
    same = [c for c in columns if c in shown and shown[c].nunique() == 1 and "[" not in shown[c].iloc[0]]
    return shown.drop(columns=same)


def _format_value(row: Mapping[Any, Any]) -> str:
    """Return a model's name and what sets its protocol apart."""
    protocol = json.loads(row["protocol"])
    marks = [text for key, text in _MARKS.items() if protocol.get(key)]
    return str(row["name"]) + (f" ({', '.join(marks)})" if marks else "")


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Return the same correlations in other aggregations."""
    columns = {
        "cc": "within sections",
        "cc_pooled_patient": "pooled per patient",
        "cc_pooled": "pooled",
        "cc_pooled_between": "of it between sections",
        "cc_pooled_section_mean": "section means alone",
        "cc_spot": "across types",
    }
    shown = table[["name", "cohort", "against"]].rename(columns={"name": "model"})
    shown = shown.assign(**{title: [number(v) for v in table[name]] for name, title in columns.items()})
    shown["types"] = table["n_types"].astype(str)
    shown["undefined"] = table["n_nan"].astype(str)
    return _without_constants(shown)


def _differences(results: Results) -> pd.DataFrame:
    """Return the comparison of every two models over patients."""
    table = compare_models(results.rows, results.models, metric=results.words.score)
    rows = [
        {"cohort": row["cohort"], "against": row["against"], "models": f"{row['first']} − {row['second']}",
         "difference": number(row["difference"]),
         "first is higher in": f"{row['n_first_higher']} of {row['n_patients']}",
         "p": number(row["p"], 4), "p (Holm)": number(row["p_holm"], 4)}
        for row in table[table["n_patients"] > 0].to_dict("records")
    ]  # fmt: skip
    return _without_constants(pd.DataFrame(rows))


def _by_item(results: Results, against: str) -> pd.DataFrame:
    """Return the cohort's score of each type, gene or class (rows) by model (columns), with the SD ratio."""
    rows = pick(results.rows, aggregation="cohort", train_seed=-1, against=against)
    rows = rows[rows["target"] != ""]
    shape: dict[str, Any] = {"index": ["cohort", "target"], "columns": "model", "values": "value", "dropna": False}
    scores = pick(rows, metric=results.words.item_score).pivot_table(**shape)
    known = pick(rows, metric=results.words.item_score)[["cohort", "target"]].drop_duplicates()
    scores = scores.reindex(pd.MultiIndex.from_frame(known.sort_values(["cohort", "target"])))
    scores = scores[[m for m in results.models if m in scores]]
    ratios = pick(rows, metric="sd_ratio").pivot_table(**shape).reindex(index=scores.index, columns=scores.columns)
    cells = scores.map(number) + ratios.map(lambda v: "" if pd.isna(v) else f" ({spread_ratio(v)})")
    shown = cells.apply(lambda row: pd.Series(mark_best(list(row), scores.loc[row.name]), cells.columns), axis=1)
    shown = shown.reset_index().rename(columns={"target": results.words.item})
    return _without_constants(shown)


def _undefined(results: Results) -> pd.DataFrame:
    """Return which scores are undefined: per model, the types, by the set of sections they are undefined in."""
    words = results.words
    rows = pick(results.rows, metric=words.item_score, aggregation="section", train_seed=-1)
    rows = rows[rows["target"] != ""]
    lines = []
    for (against, model), part in rows.groupby(["against", "model"], sort=True):
        by_sections: dict[tuple[str, ...], list[str]] = {}
        for name, sections in part[part["value"].isna()].groupby("target", sort=True)["sample"]:
            by_sections.setdefault(tuple(sorted(set(sections))), []).append(str(name))
        for names, items in sorted(by_sections.items()):
            every = len(items) == part["target"].nunique(), len(names) == part["sample"].nunique()
            lines.append(
                {"against": str(against), "model": str(model), words.items: "all" if every[0] else listed(items),
                 "sections": "all" if every[1] else listed(names)}
            )  # fmt: skip
    return pd.DataFrame(lines)


def write_summary(results: Results, out: Mapping[str, Path]) -> None:
    """Write the summary of an experiment as ``csv`` (all numbers), ``md`` and ``html`` (for people)."""
    table, words = summarise(results), results.words
    item = {"item": words.item, "items": words.items, "observation": words.observation}
    plain, flagged = table[table["qc_flag"] == ""], table[table["qc_flag"] != ""]
    page = Page(results.title)
    page.table(_headline(plain, results))
    page.text((_READING if words.correlates else _READING_CLASSES).format(**item))
    if words.correlates and len(plain):
        page.heading("The same predictions, pooled")
        page.table(_pooled(plain))
        page.text(_POOLED.format(**item))
    if len(flagged):
        page.heading("Shown, kept out of all means")
        page.table(_headline(flagged, results))
    differences = _differences(results)
    if len(differences):
        page.heading("Which differences hold")
        page.table(differences)
        page.text(
            f"Difference in {words.score_name}, patient by patient; p: exact sign-flip test over patients, Holm's "
            f"correction over the pairs of models of a cohort. Below {MIN_PATIENTS} patients no p is given: no pattern "
            "of signs could make one small."
        )
    for against in sorted(results.rows["against"].unique()):
        ratio = " (SD ratio)" if words.correlates else ""
        name = words.score_name if words.correlates else "F1"
        page.heading(f"{name}{ratio} by {words.item}, against {against}")
        page.table(_by_item(results, against))
    undefined = _undefined(results)
    if len(undefined):
        page.heading("Undefined")
        page.text("Where a label does not vary there is nothing to score. These are counted above and enter no mean.")
        page.table(undefined)
    page.heading("Protocol")
    stamps = results.rows.groupby("model", sort=False)["protocol"].first()
    by_stamp: dict[str, list[str]] = {}
    for model in results.models:
        by_stamp.setdefault(short(json.loads(stamps[model])), []).append(model)
    for text, names in by_stamp.items():
        page.text(f"{listed(names)}: {text}.")
    page.write(table.drop(columns="name"), out)
