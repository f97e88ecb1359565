"""The front page of the report: what was measured, the headline, a verdict made by rule, figures, what to distrust."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.metrics.continuous import SMALL_SPREAD
from histoloom.report.pages import number, with_interval
from histoloom.report.results import WORDS, Words, display_names
from histoloom.report.style import write_picture

_CHART_PX, _PHOTOGRAPH_PX = 1000, 800
_SECTION_MEAN = "section mean"
_CSS = """<style>
.hl{font-family:system-ui,sans-serif;max-width:62em;color:#222}.hl h2{font-size:1.25em;margin:1.2em 0 .3em}
.hl p{margin:.35em 0}.hl .big{font-size:1.5em;font-weight:600}.hl .verdict{background:#eef4f8;padding:.6em .9em}
.hl figure{margin:1em 0}.hl img{max-width:100%;border:1px solid #ddd}.hl figcaption{font-size:.92em;color:#444}
.hl ul{margin:.2em 0 .2em 1.2em;list-style:disc}
</style>"""
_CAPTIONS = {
    "baselines": "All models, those that may know least on top. Points are held-out patients, diamonds their mean. "
    "What does not rise above the grey baselines was not learnt from morphology; the shaded strip marks predictions "
    "that are nearly flat.",
    "bars": "Every held-out patient; white points are its sections. The dashed line is the error of predicting the "
    "mean of the training labels.",
    "maps": "The held-out section whose score is the median one: labels above, prediction below, from the best to "
    "the worst predicted {item}.",
}


def _read(path: Path) -> pd.DataFrame:
    text = dict.fromkeys(("model", "variant", "cohort", "qc_flag", "against", "level", "protocol"), str)
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""]).fillna(dict.fromkeys(text, ""))


def verdict(baselines: pd.DataFrame, levels: Mapping[str, bool], words: Words) -> tuple[str, str]:
    """Return the best model and one sentence about it, from the baseline comparison of one cohort.

    `levels` says whether a level only serves for comparison. The mean of a test section sees test labels and is no
    rival.
    """
    score = words.score
    rows = baselines[baselines[score].notna() & (baselines["level"] != _SECTION_MEAN)].set_index("model")
    below = rows["level"].map(lambda level: levels.get(level, False))
    models, rivals = rows[~below], rows[below]
    if models.empty:
        return "", f"No model has a defined {words.score_name}."
    best = str(models[score].idxmax())
    if rivals.empty:
        return best, f"{best} was not compared with any baseline: nothing says what it learnt from morphology."
    rival = str(rivals[score].idxmax())
    patients = patient_scores(rows, words)
    gains = patients.loc[best].to_numpy(dtype=float) - patients.loc[rival].to_numpy(dtype=float)
    gains = gains[np.isfinite(gains)]
    better = int((gains > 0).sum())
    word = "is" if better == len(gains) else "is not always" if better * 2 > len(gains) else "is not"
    return best, (
        f"{best} {word} better than the best baseline ({rival}, {words.score_name} {number(rows.loc[rival, score])}): "
        f"in {better} of {len(gains)} held-out patients, by {number(gains.mean())} in the mean."
    )


def patient_scores(rows: pd.DataFrame, words: Words) -> pd.DataFrame:
    """Return the columns of a baseline comparison that hold the score of a patient."""
    others = {f"{words.score}_low", f"{words.score}_high", "cc_pooled", "cc_pooled_patient"}
    names = [str(c) for c in rows if str(c).startswith(f"{words.score}_") and c not in others]
    return rows[names].astype(float)


def doubts(row: Mapping[str, Any], table: pd.DataFrame, words: Words) -> list[str]:
    """Return what a reader should distrust in the headline, from its row and the table of the summary."""
    protocol = json.loads(row["protocol"])
    notes = []
    if protocol.get("demo_fit"):
        notes.append("The labels come from a fit that is too short to trust; its numbers show that the workflow runs.")
    if protocol.get("joint_fit"):
        notes.append("Labels were fitted on all patients together, so those of test patients shaped those of training.")
    if protocol.get("content_guard") == "off":
        notes.append("Nothing compared the sections, so one of them under two names would have passed.")
    if protocol.get("shuffle_labels") not in {None, "none", "unstated"}:
        notes.append("Labels were shuffled on purpose.")
    if row["n_patients"] < 5:
        notes.append(f"Only {row['n_patients']} patients were held out: too few for an interval or a test.")
    if words.correlates and row["sd_ratio"] < SMALL_SPREAD:
        notes.append(
            f"Predictions are nearly flat: their spread is {row['sd_ratio']:.0%} of the labels'. The correlation does "
            "not show that."
        )
    if words.correlates and row["l1_skill"] < 0:
        notes.append("Its error is larger than that of predicting the training mean (skill below 0).")
    if row["n_nan"]:
        notes.append(f"{row['n_nan']} pairs of {words.item} and section have no score: the label does not vary there.")
    flagged = table[table["qc_flag"] != ""]
    if len(flagged):
        notes.append(f"Sections with a QC flag ({', '.join(sorted(set(flagged['qc_flag'])))}) enter no mean.")
    return notes


def picture(path: Path) -> str:
    """Return a figure as a data URI, as wide as the page."""
    from PIL import Image

    image, photograph, buffer = Image.open(path).convert("RGB"), path.suffix == ".jpg", io.BytesIO()
    image.thumbnail((_PHOTOGRAPH_PX if photograph else _CHART_PX, image.height), Image.Resampling.LANCZOS)
    write_picture(image, buffer, photograph=photograph)
    kind = "jpeg" if photograph else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def experiment_block(
    entry: Mapping[str, Any], summary: Path, baselines: Path, figures: Sequence[Path], attainable: Path | None = None
) -> str:
    """Return the part of the page about one experiment: its entry, tables (csv) and figures."""
    words = WORDS[(entry.get("target") or {}).get("kind", "abundance")]
    table, compared = _read(summary), _read(baselines)
    levels = {item["level"]: bool(item["baseline"]) for item in entry.get("baselines") or ()}
    parts = [f"<h2>{html.escape(str(entry.get('title') or entry['name']))}</h2>"]
    by_name = {path.stem if path.stem != "maps" else f"maps of {path.parent.name}": path for path in figures}
    shown = ["baselines", "bars"]
    for cohort, rows in compared.groupby("cohort", sort=False):
        best, sentence = verdict(rows, levels, words)
        own = table[(table["cohort"] == cohort) & (table["qc_flag"] == "")]
        own = own[display_names(own) == best]
        if own.empty:
            parts.append(f"<p class='verdict'>{html.escape(sentence)}</p>")
            continue
        row: dict[str, Any] = {str(k): v for k, v in own.iloc[0].items()}
        protocol = json.loads(row["protocol"])
        split = str(protocol.get("split", "")).replace("_", " ")
        parts.append(
            f"<p>Predicted: {words.target} per {words.observation} from H&amp;E, "
            f"{html.escape(_labels(protocol))}{html.escape(split)}. Measured on cohort {html.escape(str(cohort))}: "
            f"{row['n_patients']} held-out patients, {row['n_sections']} sections, {row['n_types']} {words.items}.</p>"
        )
        headline = with_interval(row[words.score], row[f"{words.score}_low"], row[f"{words.score}_high"])
        parts.append(f"<p class='big'>{words.score_name} {headline} <small>({html.escape(best)})</small></p>")
        values = patient_scores(rows.set_index("model"), words).loc[best]
        ceiling = _ceiling(attainable, str(cohort))
        parts.append(
            f"<p>Patients from {number(values.min())} to {number(values.max())}."
            + (f" Ceiling from thinned counts, mean over types: {number(ceiling)}." if ceiling is not None else "")
            + "</p>"
        )
        parts.append(f"<p class='verdict'>{html.escape(sentence)}</p>")
        notes = doubts(row, table, words) + ([] if ceiling is not None else ["No ceiling was measured."])
        parts.append("<p>What to distrust:</p><ul>" + "".join(f"<li>{html.escape(n)}</li>" for n in notes) + "</ul>")
        shown.append(f"maps of {best.partition(' (')[0]}")
    for name in dict.fromkeys(shown):
        if name in by_name:
            caption = _CAPTIONS[name.partition(" ")[0]].format(item=words.item)
            image = f"<img src='{picture(by_name[name])}' alt='{html.escape(name)}'>"
            parts.append(f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>")
    return "\n".join(parts)


def _labels(protocol: Mapping[str, Any]) -> str:
    labels = protocol.get("labels")
    name = labels.get("name") if isinstance(labels, dict) else labels
    return f"labels {name}, " if name else ""


def _ceiling(attainable: Path | None, cohort: str) -> float | None:
    if attainable is None:
        return None
    table = pd.read_csv(attainable, dtype={"cohort": str})
    values = table.loc[(table["cohort"] == cohort) & table["identifiable"], "ceiling"]
    return float(values.mean()) if len(values) else None


def write_front(*, entries: Sequence[Mapping[str, Any]], files: Mapping[str, Sequence[Path]], out: Path) -> None:
    """Write the front page as a fragment of html.

    ``tables`` (csv) and ``figures`` are those of all experiments; their folder says of which.
    """
    parts = [_CSS, "<div class='hl'>"]
    for entry in entries:
        tables = {path.stem: path for path in files["tables"] if path.parent.name == entry["name"]}
        figures = [path for path in files["figures"] if entry["name"] in (path.parent.name, path.parent.parent.name)]
        parts.append(experiment_block(entry, tables["summary"], tables["baselines"], figures, tables.get("attainable")))
    parts.append("</div>")
    out.write_text("\n".join(parts) + "\n", encoding="utf-8")
