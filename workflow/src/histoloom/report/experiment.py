"""What the report shows of an experiment as a whole, and of each of its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histoloom.report.bars import draw_bars
from histoloom.report.baselines import draw_baselines, write_baselines
from histoloom.report.between import draw_between
from histoloom.report.coloc import draw_coloc
from histoloom.report.curves import draw_curves
from histoloom.report.errors import draw_errors, find_cases
from histoloom.report.maps import draw_maps, draw_ranks
from histoloom.report.pages import write_csv
from histoloom.report.results import read_results
from histoloom.report.summary import write_summary


def report_experiment(
    *,
    experiment: str,
    spec: Mapping[str, Any],
    metrics: Sequence[Path],
    efficiency: Sequence[Path],
    out: Mapping[str, Path],
) -> None:
    """Write summary and baseline comparison, and draw them.

    `efficiency` are the models' training records. `out` by role: ``summary_csv``, ``summary_md``, ``summary_html``,
    ``baselines_csv`` and so on, and the figures ``bars``, ``baselines``, ``between`` and ``curves``.
    """
    results = read_results(experiment, spec, metrics)
    endings = ("csv", "md", "html")
    write_summary(results, {ending: out[f"summary_{ending}"] for ending in endings})
    write_baselines(results, {ending: out[f"baselines_{ending}"] for ending in endings})
    draw_bars(results, out["bars"])
    draw_baselines(results, out["baselines"])
    draw_between(results, out["between"])
    draw_curves(title=results.title, efficiency=efficiency, out=out["curves"])


def report_model(
    *, experiment: str, model: str, title: str, files: Mapping[str, Sequence[Path]], out: Mapping[str, Path]
) -> None:
    """Draw a model's predictions over a section, ranks of types, colocalization and errors.

    `files` by role: the first of ``predictions``, ``metrics``, ``target`` and ``folds``; ``samples`` and ``slides`` of
    all sections in the same order.
    """
    predictions, metrics = files["predictions"][0], files["metrics"][0]
    target, folds = files["target"][0], files["folds"][0]
    names: dict[str, Any] = {"experiment": experiment, "model": model}
    draw_maps(**names, predictions=predictions, samples=files["samples"], out=out["maps"])
    draw_ranks(**names, predictions=predictions, target=target, folds=folds, out=out["ranks"])
    draw_coloc(**names, metrics=metrics, out=out["colocalization"])
    cases = find_cases(predictions)
    write_csv(cases, out["cases"])
    heading = f"{title or experiment}, {model}"
    draw_errors(cases=cases, samples=files["samples"], slides=files["slides"], title=heading, out=out["errors"])
