"""The summary of an experiment: models by cohorts, each CC in all its aggregations, and what it was made under."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.metrics.protocol import short
from histoloom.metrics.rows import read_metrics
from histoloom.metrics.uncertainty import MIN_PATIENTS, bootstrap_interval, compare_models
from histoloom.report.pages import Page, listed, number, write_csv

SUMMARY_COLUMNS = [
    "model", "variant", "cohort", "qc_flag", "against", "cc", "cc_low", "cc_high", "cc_seed_sd", "cc_pooled_patient",
    "cc_pooled", "cc_pooled_between", "cc_pooled_section_mean", "cc_spot",
    "l1", "l1_mean_predictor", "l1_skill", "coloc_cosine", "coloc_correlation",
    "n_patients", "n_patients_nan", "n_sections", "n_types", "n_nan", "protocol",
]  # fmt: skip
_PLACE = ["model", "variant", "cohort", "against"]
_COLOC_FORM = "nodiag_row"
_READING = (
    "CC: Pearson's r per type over the spots of a section, mean over types, sections of a patient, then patients. "
    "Pooled columns put spots of a patient or of all patients together first and so reward knowing a section's mean: "
    "next to them stand the part that lies between sections and what a predictor of section means alone would reach. "
    "Skill = 1 - L1 / L1 of the training mean. Interval: bootstrap over patients, from "
    f"{MIN_PATIENTS} patients on. 'Undefined' counts section-type pairs where a column is constant; they enter no mean."
)


def _pick(rows: pd.DataFrame, **where: Any) -> pd.DataFrame:
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    return rows


def _value(rows: pd.DataFrame, **where: Any) -> float:
    found = _pick(rows, **{"train_seed": -1, "target": "", **where})["value"]
    return float(found.iloc[0]) if len(found) else float("nan")


def summary_row(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the summary of one model, cohort and reference from its metric rows without a QC flag."""
    patients = _pick(rows, metric="cc", aggregation="patient", target="", train_seed=-1)
    sections = rows[(rows["aggregation"] == "section") & (rows["metric"] == "cc") & (rows["target"] != "")]
    interval = bootstrap_interval(patients["value"].to_numpy()) or (np.nan, np.nan)
    seeds = rows[(rows["train_seed"] >= 0) & (rows["metric"] == "cc") & (rows["target"] == "")]["value"]
    cohort: dict[str, Any] = {"aggregation": "cohort"}
    pooled_patient = rows[rows["patient"] == ""]
    return {
        "cc": _value(rows, metric="cc", **cohort),
        "cc_low": interval[0],
        "cc_high": interval[1],
        "cc_seed_sd": float(seeds.std(ddof=1)) if len(seeds) > 1 else np.nan,
        "cc_pooled_patient": _value(pooled_patient, metric="cc", aggregation="pooled_patient"),
        "cc_pooled": _value(rows, metric="cc", aggregation="pooled"),
        "cc_pooled_between": _value(rows, metric="cc_between", aggregation="pooled"),
        "cc_pooled_section_mean": _value(rows, metric="cc_section_mean", aggregation="pooled"),
        "cc_spot": _value(pooled_patient, metric="cc", aggregation="spot"),
        **{name: _value(rows, metric=name, **cohort) for name in ("l1", "l1_mean_predictor", "l1_skill")},
        **{
            name: _value(rows, metric=name, gene_set=_COLOC_FORM, **cohort)
            for name in ("coloc_cosine", "coloc_correlation")
        },
        "n_patients": int(patients["value"].notna().sum()),
        "n_patients_nan": int(patients["value"].isna().sum()),
        "n_sections": int(sections["sample"].nunique()),
        "n_types": int(sections["target"].nunique()),
        "n_nan": int(sections["value"].isna().sum()),
    }


def flagged_row(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the summary of flagged sections: means over their patients, shown apart."""
    patients = rows[(rows["aggregation"] == "patient") & (rows["target"] == "")]
    sections = rows[(rows["aggregation"] == "section") & (rows["metric"] == "cc") & (rows["target"] != "")]
    found = {
        name: float(_pick(patients, metric=name)["value"].mean())
        for name in ("cc", "l1", "l1_mean_predictor", "l1_skill")
    }
    return {
        **found,
        "n_patients": int(_pick(patients, metric="cc")["value"].notna().sum()),
        "n_patients_nan": int(_pick(patients, metric="cc")["value"].isna().sum()),
        "n_sections": int(sections["sample"].nunique()),
        "n_types": int(sections["target"].nunique()),
        "n_nan": int(sections["value"].isna().sum()),
    }


def summarise(metrics: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Return the summary table.

    Parameters
    ----------
    metrics
        Metric rows of one experiment.
    models
        Models in the order wanted; those without rows are left out.

    Returns
    -------
    DataFrame
        `SUMMARY_COLUMNS`; one row per model, variant, cohort and reference, and one more for each QC flag.
    """
    found = []
    order = {model: i for i, model in enumerate(models)}
    metrics = metrics[metrics["model"].isin(order) & ~metrics["metric"].str.startswith("morans_r")]
    for key, rows in metrics.groupby(_PLACE, sort=True, observed=True):
        place = dict(zip(_PLACE, key if isinstance(key, tuple) else (key,), strict=True))
        place["protocol"] = rows["protocol"].iloc[0]
        plain = rows[rows["qc_flag"] == ""]
        if (plain["aggregation"] == "section").any():
            found.append({**place, "qc_flag": "", **summary_row(plain)})
        for qc_flag, part in rows[rows["qc_flag"] != ""].groupby("qc_flag", sort=True):
            found.append({**place, "qc_flag": qc_flag, **flagged_row(part)})
    frame = pd.DataFrame(found).reindex(columns=SUMMARY_COLUMNS)
    frame["qc_flag"] = frame["qc_flag"].fillna("")
    rank = frame["model"].map(order)
    frame = frame.assign(_rank=rank, _plain=frame["qc_flag"] != "")
    frame = frame.sort_values(["_plain", "qc_flag", "cohort", "against", "_rank", "variant"], kind="stable")
    return frame.drop(columns=["_rank", "_plain"]).reset_index(drop=True)


def _for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Return the summary with few columns and rounded numbers."""
    rows = []
    for row in table.to_dict("records"):
        protocol = json.loads(row["protocol"])
        interval = f" [{number(row['cc_low'], 2)}, {number(row['cc_high'], 2)}]" if not pd.isna(row["cc_low"]) else ""
        name = row["model"] + (f" ({row['variant']})" if row["variant"] not in {"", "default"} else "")
        marks = [
            text
            for key, text in (
                ("uses_test_labels", "sees test labels"),
                ("transductive", "transductive"),
                ("tuned_on_test", "tuned on test"),
            )
            if protocol.get(key)
        ]
        rows.append(
            {
                "model": name + (f" ({', '.join(marks)})" if marks else ""),
                "cohort": row["cohort"] + (f" [{row['qc_flag']}]" if row["qc_flag"] else ""),
                "against": row["against"],
                "CC": number(row["cc"]) + interval,
                "sd over seeds": number(row["cc_seed_sd"]),
                "CC pooled per patient": number(row["cc_pooled_patient"]),
                "CC pooled": number(row["cc_pooled"]),
                "of it between sections": number(row["cc_pooled_between"]),
                "section means alone": number(row["cc_pooled_section_mean"]),
                "CC across types": number(row["cc_spot"]),
                "L1": number(row["l1"]),
                "L1 of mean": number(row["l1_mean_predictor"]),
                "skill": number(row["l1_skill"]),
                "patients": str(row["n_patients"])
                + (f" (+{row['n_patients_nan']} undefined)" if row["n_patients_nan"] else ""),
                "sections": str(row["n_sections"]),
                "types": str(row["n_types"]),
                "undefined": str(row["n_nan"]),
            }
        )
    return pd.DataFrame(rows)


def _add_comparisons(page: Page, rows: pd.DataFrame, models: Sequence[str]) -> None:
    """Add the comparison of every two models over patients."""
    table = compare_models(rows, models)
    table = table[table["n_patients"] > 0]
    if table.empty:
        return
    page.heading("Which differences hold")
    page.text(
        "Difference in CC, patient by patient; p: exact sign-flip test over patients, Holm's correction over the pairs "
        f"of models of a cohort. Below {MIN_PATIENTS} patients no p is given: no pattern of signs could make one small."
    )
    shown = [
        {"cohort": row["cohort"], "against": row["against"], "models": f"{row['first']} − {row['second']}",
         "difference": number(row["difference"]),
         "first is higher in": f"{row['n_first_higher']} of {row['n_patients']}",
         "p": number(row["p"], 4), "p (Holm)": number(row["p_holm"], 4)}
        for row in table.to_dict("records")
    ]  # fmt: skip
    page.table(pd.DataFrame(shown))


def _by_type(metrics: pd.DataFrame, models: Sequence[str], against: str) -> pd.DataFrame:
    """Return cohort CC of each type (rows) by model (columns)."""
    rows = _pick(metrics, metric="cc", aggregation="cohort", train_seed=-1, against=against)
    rows = rows[rows["target"] != ""]
    wide = rows.pivot_table(index=["cohort", "target"], columns="model", values="value", dropna=False, sort=True)
    wide = wide.reindex(columns=[m for m in models if m in wide])
    known = rows[["cohort", "target"]].drop_duplicates().sort_values(["cohort", "target"])
    wide = wide.reindex(pd.MultiIndex.from_frame(known))
    shown = wide.map(number).reset_index().rename(columns={"target": "type"})
    return shown


def _undefined(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return which correlations are undefined: per model, the types, by the set of sections they are undefined in."""
    rows = _pick(metrics, metric="cc", aggregation="section", train_seed=-1)
    rows = rows[rows["target"] != ""]
    found = []
    for (against, model), part in rows.groupby(["against", "model"], sort=True):
        places: dict[tuple[str, ...], list[str]] = {}
        for name, sections in part[part["value"].isna()].groupby("target", sort=True)["sample"]:
            places.setdefault(tuple(sorted(set(sections))), []).append(str(name))
        for where, types in sorted(places.items()):
            found.append(
                {
                    "against": str(against),
                    "model": str(model),
                    "types": "all" if len(types) == part["target"].nunique() else listed(types),
                    "sections": "all" if len(where) == part["sample"].nunique() else listed(where),
                }
            )
    return pd.DataFrame(found)


def write_tables(*, experiment: str, spec: Mapping[str, Any], metrics: Sequence[Path], out: Mapping[str, Path]) -> None:
    """Write the summary of an experiment.

    Parameters
    ----------
    experiment
        Its name.
    spec
        Its entry; ``models`` gives the order, ``title`` the heading.
    metrics
        Metrics of its models.
    out
        Path by role: ``summary_csv`` (all numbers, one row per model, cohort, reference and QC flag),
        ``comparisons_csv`` (every two models over patients), ``summary_md`` and ``summary_html`` (for people); roles
        may be left out.

    Raises
    ------
    InputError
        If the metrics hold nothing of this experiment.
    """
    rows = read_metrics(metrics)
    rows = rows[rows["experiment"] == experiment]
    if rows.empty:
        raise InputError(
            ", ".join(map(str, metrics)) or "metrics",
            f"no rows of experiment '{experiment}'.",
            "remove them, so that they are made anew.",
        )
    models = list(spec.get("models") or []) or sorted(rows["model"].unique())
    table = summarise(rows, models)
    if "summary_csv" in out:
        write_csv(table, out["summary_csv"])
    if "comparisons_csv" in out:
        write_csv(compare_models(rows, models), out["comparisons_csv"])
    page = _page(experiment, spec, rows, table, models)
    if "summary_md" in out:
        out["summary_md"].write_text(page.markdown(), encoding="utf-8")
    if "summary_html" in out:
        out["summary_html"].write_text(page.html(), encoding="utf-8")


def _page(
    experiment: str, spec: Mapping[str, Any], rows: pd.DataFrame, table: pd.DataFrame, models: Sequence[str]
) -> Page:
    page = Page(str(spec.get("title") or experiment))
    plain, flagged = table[table["qc_flag"] == ""], table[table["qc_flag"] != ""]
    if len(plain):
        page.table(_for_people(plain))
    page.text(_READING)
    if len(flagged):
        page.heading("Shown, kept out of all means")
        page.table(_for_people(flagged)[["model", "cohort", "against", "CC", "L1", "skill", "patients", "sections"]])
    _add_comparisons(page, rows, models)
    for against in sorted(rows["against"].unique()):
        page.heading(f"CC by cell type, against {against}")
        page.table(_by_type(rows, models, against))
    undefined = _undefined(rows)
    if len(undefined):
        page.heading("Undefined correlations")
        page.text("A constant column has no correlation. These are counted above and enter no mean.")
        page.table(undefined)
    page.heading("Protocol")
    stamps = rows.groupby("model", sort=False)["protocol"].first()
    by_stamp: dict[str, list[str]] = {}
    for model in models:
        if model in stamps:
            by_stamp.setdefault(short(json.loads(stamps[model])), []).append(model)
    for text, names in by_stamp.items():
        page.text(f"{listed(names)}: {text}.")
    return page
