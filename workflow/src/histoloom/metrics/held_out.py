"""What held-out sections say of each type: the number to show wherever a prediction is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from histoloom.metrics.rows import read_metrics

Scores = dict[str, dict[str, float]]


def held_out_scores(metrics: Path, cohort: str = "", sample: str = "") -> Scores:
    """Return the correlation of each type within held-out sections: ``mean`` of cohorts, and ``here``, of one section.

    What is not defined is left out.
    """
    rows = read_metrics([metrics])
    rows = rows[(rows["metric"] == "cc") & (rows["against"] == "labels") & (rows["train_seed"] == -1)]
    rows = rows[(rows["target"] != "") & (rows["variant"] == rows["variant"].iloc[:1].squeeze())]
    mean = rows[rows["aggregation"] == "cohort"].groupby("target", observed=True)["value"].mean()
    here = rows[(rows["aggregation"] == "section") & (rows["cohort"] == cohort) & (rows["sample"] == sample)]
    sources = {"mean": mean.dropna(), "here": here.set_index("target")["value"].dropna()}
    return {str(name): {key: float(v[name]) for key, v in sources.items() if name in v} for name in mean.index}


def held_out_of_bundle(facts: Path) -> Scores:
    """Return the same from the facts of a bundle (``bundle.json``)."""
    scores = [s for s in json.loads(facts.read_text())["scores"] if (s["metric"], s["against"]) == ("cc", "labels")]
    by_type = pd.DataFrame([s["by_output"] for s in scores if s["variant"] == scores[0]["variant"]])
    return {str(name): {"mean": float(value)} for name, value in by_type.mean().items()}
