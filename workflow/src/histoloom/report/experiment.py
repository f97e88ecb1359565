"""What the report shows of an experiment as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histoloom.report.bars import draw_bars
from histoloom.report.baselines import draw_baselines, write_baselines
from histoloom.report.between import draw_between
from histoloom.report.results import read_results
from histoloom.report.summary import write_summary


def report_experiment(
    *, experiment: str, spec: Mapping[str, Any], metrics: Sequence[Path], out: Mapping[str, Path]
) -> None:
    """Write summary and baseline comparison, and draw them.

    `out` by role: ``summary_csv``, ``summary_md``, ``summary_html``, ``baselines_csv`` and so on, and the figures
    ``bars``, ``baselines`` and ``between``.
    """
    results = read_results(experiment, spec, metrics)
    endings = ("csv", "md", "html")
    write_summary(results, {ending: out[f"summary_{ending}"] for ending in endings})
    write_baselines(results, {ending: out[f"baselines_{ending}"] for ending in endings})
    draw_bars(results, out["bars"])
    draw_baselines(results, out["baselines"])
    draw_between(results, out["between"])
