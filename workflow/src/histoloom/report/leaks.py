"""Tables of leakage effects: another section of the same patient in training, and a transfer in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.metrics.leakage import GROUPS
from histoloom.metrics.rows import read_metrics, read_protocols
from histoloom.metrics.uncertainty import MIN_PATIENTS, sign_flip_p
from histoloom.obs_keys import section_keys
from histoloom.report.pages import Page, listed, number
from histoloom.report.results import pick, sort_by

PAIRED = "paired_leakage"
EFFECT = "leakage_effect"
TRAININGS = ("as_published", "shared_dropped", "random_drop")
PAIRED_COLUMNS = [
    "model", "against", "level", "cohort", "patient", "sample", "qc_flag", "cc_with", "cc_without", "difference",
    "cc_with_sd_draws", "n_draws", "n_types", "n_types_undefined", "n_test", "n_train", "n_leaked", "n_patients",
    "n_patients_higher", "p",
]  # fmt: skip
TRANSFER_COLUMNS = [
    "model", "against", "cohort", "level", "patient", "qc_flag", "tested", "training", "n_draws", "cc", "cc_low_draw",
    "cc_high_draw", "n_patients", "n_train", "n_train_sections", "n_train_patients", "n_leaked",
]  # fmt: skip
_PLACE = ["cohort", "patient", "sample", "qc_flag"]
_NO_P = f"Below {MIN_PATIENTS} patients no p is given: no pattern of signs could make one small."


def paired_table(rows: pd.DataFrame, folds: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> pd.DataFrame:
    """Return CC with and without another section of the patient in training, per section, patient and cohort.

    `folds` says what each fold is (metadata of the metrics). ``n_train`` is that of both models of a pair, ``n_leaked``
    how much of it is of the tested patient. p: exact sign-flip test over patients, in rows of level cohort.
    """
    rows = rows[(rows["target"] == "") & (rows["train_seed"] == -1)]
    sizes = pd.DataFrame.from_dict(dict(folds), orient="index")
    tests = sizes[sizes["what"] == "with"].groupby("tests")
    withs = pd.DataFrame({"n_draws": tests.size(), "n_train": tests["n_train"].first(),
                          "n_leaked": tests["n_leaked"].mean(), "n_test": tests["n_test"].first()})  # fmt: skip
    tables: list[pd.DataFrame] = []
    for (model, against), part in rows.groupby(["model", "against"], sort=False):
        own = part[(part["metric"] == "cc") & part["fold"].isin(sizes.index[sizes["what"] == "with"])]
        spread = own.groupby(["cohort", "sample"])["value"].std()
        for level in ("section", "patient", "cohort"):
            place = _PLACE[: {"section": 4, "patient": 2, "cohort": 1}[level]]
            place = [*place, "qc_flag"] if level == "patient" else place
            chosen = part[(part["aggregation"] == level) & part["metric"].isin(["cc_with", "cc_without", EFFECT])]
            if chosen.empty:
                continue
            wide = chosen.set_index([*place, "metric"])["value"].unstack("metric")
            counts = chosen[chosen["metric"] == EFFECT].set_index(place)
            wide = wide.reindex(counts.index).rename(columns={EFFECT: "difference"})
            table = wide.assign(model=str(model), against=str(against), level=level).reset_index()
            if level == "section":
                name = section_keys(table)
                table = table.assign(**{str(column): withs[column].reindex(name).to_numpy() for column in withs})
                pair = pd.MultiIndex.from_frame(table[["cohort", "sample"]])
                table["cc_with_sd_draws"] = spread.reindex(pair).to_numpy()
                table["n_types"], table["n_types_undefined"] = counts["n"].to_numpy(), counts["n_nan"].to_numpy()
            if level == "cohort":
                table = table.assign(**_over_patients(tables[-1], table["cohort"]))
            tables.append(table)
    frame = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    frame = sort_by(frame.reindex(columns=PAIRED_COLUMNS), ["model"], model=models)
    whole = ["n_draws", "n_types", "n_types_undefined", "n_test", "n_train", "n_patients", "n_patients_higher"]
    return frame.fillna({"patient": "", "sample": "", "qc_flag": ""}).astype(dict.fromkeys(whole, "Int64"))


def _over_patients(patients: pd.DataFrame, cohorts: pd.Series) -> dict[str, list[float]]:
    """Return, cohort by cohort, how many patients there are, in how many the leak raises CC, and the p."""
    plain = patients[patients["qc_flag"] == ""]
    by_cohort = [plain.loc[plain["cohort"] == cohort, "difference"].dropna().to_numpy() for cohort in cohorts]
    return {
        "n_patients": [len(v) for v in by_cohort],
        "n_patients_higher": [int((v > 0).sum()) for v in by_cohort],
        "p": [sign_flip_p(v) for v in by_cohort],
    }


def transfer_table(rows: pd.DataFrame, folds: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> pd.DataFrame:
    """Return a transfer's CC by training and by who is tested, per patient and cohort.

    ``cc`` of random drops is the mean over draws, ``cc_low_draw`` and ``cc_high_draw`` their range.
    """
    rows = rows[(rows["target"] == "") & (rows["train_seed"] == -1) & (rows["metric"] == "cc")]
    rows = rows[rows["aggregation"].isin(["patient", "cohort"]) & rows["model"].isin(models)]
    sizes = pd.DataFrame.from_dict(dict(folds), orient="index")
    rows = rows.assign(training=rows["fold"].map(sizes["what"]), tested=rows["variant"], level=rows["aggregation"])
    by = ["model", "against", "cohort", "level", "patient", "qc_flag", "tested", "training"]
    draws = rows.groupby(by, sort=False)["value"]
    table = draws.agg(n_draws="size", cc="mean", cc_low_draw="min", cc_high_draw="max").reset_index()
    means = sizes.groupby("what")[["n_train", "n_train_sections", "n_train_patients", "n_leaked"]].mean()
    table = table.join(means, on="training")
    patients = rows[(rows["level"] == "patient") & (rows["qc_flag"] == "")]
    counts = patients.groupby(["model", "against", "cohort", "tested"])["patient"].nunique()
    key = pd.MultiIndex.from_frame(table[["model", "against", "cohort", "tested"]])
    table["n_patients"] = np.where(table["level"] == "cohort", counts.reindex(key).to_numpy(), np.nan)
    keys = ["against", "cohort", "model", "level", "tested", "patient", "training"]
    return sort_by(table.reindex(columns=TRANSFER_COLUMNS), keys, model=models, tested=GROUPS, training=TRAININGS)


def read_leaks(spec: Mapping[str, Any], metrics: Sequence[Path]) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """Return the table of an experiment's comparison, what was compared, and its models in order."""
    rows, metadata = read_metrics(metrics), read_protocols(metrics)
    scored = set(rows["model"])
    models = [m for m in (spec.get("models") or sorted(scored)) if m in scored]
    compared: dict[str, Any] = metadata[models[0]]["compared"]
    table = paired_table if compared["kind"] == PAIRED else transfer_table
    return table(rows, compared["folds"], models), compared, models


def write_leaks(*, spec: Mapping[str, Any], metrics: Sequence[Path], out: Mapping[str, Path]) -> None:
    """Write the leakage effect in an experiment as ``csv`` (all numbers), ``md`` and ``html``."""
    table, compared, _ = read_leaks(spec, metrics)
    title = str(spec.get("title") or spec.get("name") or "Experiment")
    page = (_paired_page if compared["kind"] == PAIRED else _transfer_page)(title, table, compared)
    page.write(table, out)


def _paired_page(title: str, table: pd.DataFrame, compared: Mapping[str, Any]) -> Page:
    page = Page(f"{title}: the leakage effect")
    siblings = "all other sections" if compared["other_sections"] == "all" else "one other section"
    page.text(
        "Every test section is predicted twice: by a model that trained on other patients only, and by one that "
        f"trained on {siblings} of the same patient too. Both train on equally many observations: those of the other "
        "patients and those sections are thinned together, at random, to the number of the others "
        f"({compared['draws']} draws, averaged). The difference "
        "is what a score gains when sections instead of patients are held out. "
        "Not matched: the number of training patients, one more with them. These numbers enter no other table."
    )
    for against, part in table.groupby("against", sort=False):
        page.heading(f"CC against {against}")
        page.table(_paired_rows(part))
        for row in part[part["level"] == "cohort"].to_dict("records"):
            p = f"exact sign-flip test over patients p = {number(row['p'], 4)}" if row["p"] == row["p"] else _NO_P
            page.text(
                f"{row['model']}, {row['cohort']}: mean over {_patients(row['n_patients'])} {number(row['cc_with'])}"
                f" with, {number(row['cc_without'])} without, difference {number(row['difference'])}; higher with the "
                f"leak in {int(row['n_patients_higher'])} of {int(row['n_patients'])}. {p}"
            )
    if compared["unpaired"]:
        page.text(
            "Without another section of the same patient, so not tested (they train others): "
            f"{listed(compared['unpaired'], 40)}."
        )
    return page


def _patients(count: Any) -> str:
    return f"{int(count)} patient{'s' * (int(count) != 1)}"


def _paired_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return sections and patients of a table for people; a patient's mean follows its sections."""
    levels = ["section", "patient"]
    shown = table[table["level"].isin(levels)]
    keys = ["model", "cohort", "patient", "level", "sample"]
    shown = sort_by(shown, keys, model=list(shown["model"].unique()), level=levels)
    rows = []
    for row in shown.to_dict("records"):
        section = row["level"] == "section"
        rows.append(
            {"model": row["model"], "cohort": row["cohort"], "patient": row["patient"],
             "section": (row["sample"] if section else "mean") + (f" [{row['qc_flag']}]" if row["qc_flag"] else ""),
             "CC with": number(row["cc_with"]), "CC without": number(row["cc_without"]),
             "difference": number(row["difference"]),
             "sd over draws": number(row["cc_with_sd_draws"]) if section else "",
             "n train, both": f"{row['n_train']:.0f}" if section else "",
             "of them the same patient's": f"{row['n_leaked']:.0f}" if section else "",
             "n test": f"{row['n_test']:.0f}" if section else "",
             "types (undefined)": f"{row['n_types']:.0f} ({row['n_types_undefined']:.0f})" if section else ""}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _transfer_page(title: str, table: pd.DataFrame, compared: Mapping[str, Any]) -> Page:
    page = Page(f"{title}: a transfer in columns")
    page.text(
        f"{_patients(len(compared['shared_patients']))} in training and in test cohorts: "
        f"{listed(compared['shared_patients'], 40)}. (a) as published: all train, all are tested; (b) the same model, "
        "tested on unshared patients only; (c) shared patients dropped from training, all tested. Next to (c) a random "
        "drop of equal size, mean and range over draws: other training patients in random order until as many "
        "observations are gone, the shared ones stay. What (c) loses and the random drop does not, was the leak."
    )
    page.table(_training_sizes(compared["folds"]))
    cohort = table[table["level"] == "cohort"]
    for against, part in cohort.groupby("against", sort=False):
        page.heading(f"CC against {against}")
        page.table(_columns(part))
        page.heading(f"The same by who is tested, against {against}")
        page.table(_by_group(part, pick(table, level="patient", against=against)))
    page.text(f"p: exact sign-flip test over patients of random drop − (c). {_NO_P}")
    return page


def _training_sizes(folds: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    names = {"as_published": "(a), (b) as published", "shared_dropped": "(c) shared dropped"}
    return pd.DataFrame(
        [{"training": names.get(fold["what"], f"random drop {fold['draw']}"), "observations": str(fold["n_train"]),
          "sections": str(fold["n_train_sections"]), "patients": str(fold["n_train_patients"]),
          "observations of tested patients": str(fold["n_leaked"])}
         for fold in sorted(folds.values(), key=lambda a: (TRAININGS.index(a["what"]), a["draw"]))]
    )  # fmt: skip


def _cc(part: pd.DataFrame, tested: str, training: str) -> str:
    chosen = pick(part, tested=tested, training=training)
    if chosen.empty:
        return "–"
    row = chosen.iloc[0]
    several = row["n_draws"] > 1
    spread = f" [{number(row['cc_low_draw'])}, {number(row['cc_high_draw'])}]" if several else ""
    return number(row["cc"]) + spread


def _columns(part: pd.DataFrame) -> pd.DataFrame:
    every, unshared = GROUPS[0], GROUPS[1]
    return pd.DataFrame(
        [{"model": model, "cohort": cohort, "(a) as published": _cc(rows, every, "as_published"),
          "(b) unshared patients only": _cc(rows, unshared, "as_published"),
          "(c) shared dropped": _cc(rows, every, "shared_dropped"),
          "random drop of equal size": _cc(rows, every, "random_drop")}
         for (model, cohort), rows in part.groupby(["model", "cohort"], sort=False)]
    )  # fmt: skip


def _by_group(part: pd.DataFrame, patients: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for key, rows in part.groupby(["model", "cohort", "tested"], sort=False):
        model, cohort, tested = map(str, key)
        own = pick(patients, model=model, cohort=cohort, tested=tested, qc_flag="")
        wide = own.set_index(["patient", "training"])["cc"].unstack("training")
        gain = (wide.get("random_drop", np.nan) - wide.get("shared_dropped", np.nan)) * np.ones(len(wide))
        lines.append(
            {"model": model, "cohort": cohort, "tested": tested.replace("_", " "), "patients": str(len(wide)),
             **{name: _cc(rows, tested, name) for name in TRAININGS},
             "random drop − (c)": number(pd.Series(gain).mean()), "p": number(sign_flip_p(gain), 4)}
        )  # fmt: skip
    names = {"as_published": "(a) as published", "shared_dropped": "(c) shared dropped", "random_drop": "random drop"}
    return pd.DataFrame(lines).rename(columns=names)
