"""Held-out predictions inside a pathologist's region against the section's other annotated regions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom import paths
from histoloom.checks.base import Plan, heading, predicted_files
from histoloom.checks.regions import score
from histoloom.report.style import PALETTE, figure, note, save

__all__ = ["draw", "inputs", "score"]


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the predictions of an experiment's models and its sections."""
    return predicted_files(plan, entry, paths.SAMPLE)


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the AUROC of each model's held-out predictions for a pathologist's regions, by section."""
    sections = rows[(rows["aggregation"] == "section") & rows["metric"].isin(["auroc", "auroc_low", "auroc_high"])]
    models = sorted(sections["model"].unique())
    with figure(8.2, 1.8 + 0.34 * max(len(sections.drop_duplicates(["sample", "target", "target2"])) + 1, 3)) as fig:
        ax = fig.subplots()
        if sections.empty:
            note(ax, "no scored section has spots inside and outside of a region")
            save(fig, out)
            return
        wide = sections.pivot_table(
            index=["target", "target2", "cohort", "sample", "model"], columns="metric", values="value"
        ).reset_index()
        y, ticks, names = 0.0, [], []
        for (kind, region), part in wide.groupby(["target", "target2"], sort=False):
            ax.text(0.0, y - 0.8, f"{kind} in {region}", fontsize=8, fontweight="bold", va="center",
                    transform=ax.get_yaxis_transform())  # fmt: skip
            for (cohort, sample), section in part.groupby(["cohort", "sample"], sort=True):
                for row in section.to_dict("records"):
                    i = models.index(row["model"])
                    at = y + (i - (len(models) - 1) / 2) * 0.7 / len(models)
                    tone = PALETTE[i % len(PALETTE)]
                    if np.isfinite(row.get("auroc_low", np.nan)):
                        ax.plot([row["auroc_low"], row["auroc_high"]], [at, at], color=tone, lw=1.4)
                    ax.plot(row["auroc"], at, "o", ms=4.5, color=tone, label=row["model"])
                ticks.append(y)
                names.append(f"{cohort}/{sample}")
                y += 1
            y += 1.3
        ax.axvline(0.5, color="black", lw=0.8, ls="--")
        ax.set_yticks(ticks, names)
        ax.set_ylim(y - 1.2, -1.6)
        ax.set_xlim(min(0.3, float(wide["auroc"].min()) - 0.05), 1.0)
        ax.set_xlabel("AUROC (0.5: chance); line: 95 % DeLong interval over spots, which are neighbours")
        handles, labels = ax.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        fig.legend([once[m] for m in models], models, loc="outside right center", frameon=False)
        fig.suptitle(**heading(title, f"held-out predictions of {spec['experiment']} against a pathologist's regions"))
        save(fig, out)
