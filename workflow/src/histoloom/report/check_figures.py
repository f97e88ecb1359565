"""Figures of checks: labels against truth, against other labels, against a pathologist's regions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.metrics.rows import read_metrics
from histoloom.report.check_more import (
    draw_ceiling,
    draw_kept,
    draw_nuclei,
    draw_predicted_regions,
    draw_residual,
    draw_sensitivity,
    draw_significance,
)
from histoloom.report.results import with_marks
from histoloom.report.style import DIVERGING, PALETTE, figure, jitter, note, save, short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FLAGGED = "#9A9A9A"


def draw_check(*, spec: Mapping[str, Any], metrics: Path, out: Path) -> None:
    """Draw what a check found.

    Parameters
    ----------
    spec
        The check's entry and its ``name``.
    metrics
        Its metrics.
    out
        png: a heatmap (truth), correlations type by type (labels), AUROC with intervals (regions), or a figure of
        `histoloom.report.check_more`.
    """
    rows = read_metrics([metrics])
    draw = {
        "truth": _draw_truth, "labels": _draw_agreement, "regions": _draw_regions, "ceiling": draw_ceiling,
        "sensitivity": draw_sensitivity, "colocalization": draw_significance, "nuclei": draw_nuclei,
        "predicted_nuclei": draw_nuclei, "predicted_regions": draw_predicted_regions, "kept": draw_kept,
        "residual": draw_residual,
    }[spec["kind"]]  # fmt: skip
    draw(spec, rows, with_marks(str(spec.get("title") or spec.get("name") or ""), rows), out)


def _grid(rows: pd.DataFrame) -> tuple[np.ndarray, list[str], list[str]]:
    """Return cohort CC (label types, ground truth types), namesakes first so that they lie on the diagonal."""
    mean = rows[(rows["metric"] == "cc") & (rows["aggregation"] == "cohort")]
    wide = mean.groupby(["target", "target2"])["value"].mean().unstack()
    common = [name for name in wide.index if name in wide.columns]
    first = common + [name for name in wide.index if name not in common]
    second = common + [name for name in wide.columns if name not in common]
    return wide.reindex(index=first, columns=second).to_numpy(), first, second


def _draw_truth(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    matrix, first, second = _grid(rows)
    n = rows[rows["aggregation"] == "section"].drop_duplicates(["cohort", "sample"])
    with figure(2.9 + 0.48 * max(len(second), 4), 2.5 + 0.36 * max(len(first), 4)) as fig:
        ax = fig.subplots()
        image = ax.imshow(matrix, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
        ax.set_facecolor("#D9D9D9")
        for (i, j), value in np.ndenumerate(matrix):
            text = f"{value:.2f}" if np.isfinite(value) else "–"
            weight = "bold" if first[i] == second[j] else "normal"
            ax.text(j, i, text, ha="center", va="center", fontsize=7, fontweight=weight,
                    color="white" if abs(value) > 0.6 else "black")  # fmt: skip
        ax.set_xticks(range(len(second)), short_names(second), rotation=45, ha="right")
        ax.set_yticks(range(len(first)), short_names(first))
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ax.set_xlabel("ground truth type")
        ax.set_ylabel("type of the labels")
        check = rows[rows["metric"] == "diagonal_is_max"]["value"]
        own = [matrix[i, second.index(name)] for i, name in enumerate(first) if name in second]
        mean = float(np.nanmean(own)) if np.isfinite(own).any() else np.nan
        fig.colorbar(image, ax=ax, shrink=0.7, pad=0.02).set_label("Pearson's r, mean over patients")
        fig.suptitle(
            f"{title}\n{n['patient'].nunique()} patients, {len(n)} sections; namesakes: mean {mean:.2f},\n"
            f"largest in row and column: {int(check.sum())} of {len(check)}",
            x=0.01, ha="left", fontsize=9,
        )  # fmt: skip
        save(fig, out)


def _draw_agreement(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    sections = rows[(rows["aggregation"] == "section") & (rows["target"] != "")]
    pairs = sections.drop_duplicates(["target", "target2"])[["target", "target2"]]
    plain = sections[sections["qc_flag"] == ""]
    mean = plain.groupby(["target", "target2"])["value"].mean()
    pairs = pairs.assign(mean=[mean.get((a, b), np.nan) for a, b in pairs.itertuples(index=False)])
    pairs = pairs.sort_values("mean", ascending=True, na_position="first", kind="stable")
    names = sorted(sections["sample"].unique())
    few = len(names) <= len(PALETTE)
    with figure(7.6, 1.7 + 0.42 * max(len(pairs), 3)) as fig:
        ax = fig.subplots()
        for y, pair in enumerate(pairs.to_dict("records")):
            mine = sections[(sections["target"] == pair["target"]) & (sections["target2"] == pair["target2"])]
            if np.isfinite(pair["mean"]):
                ax.barh(y, pair["mean"], 0.62, color="#DDE7EE", zorder=1)
                ax.plot([pair["mean"]] * 2, [y - 0.31, y + 0.31], color="black", lw=1.4, zorder=2)
            for shift, point in zip(jitter(len(mine), 0.36), mine.to_dict("records"), strict=True):
                fill = PALETTE[names.index(point["sample"])] if few else PALETTE[0]
                ax.plot(point["value"], y + shift, "o", ms=5, mec="white", mew=0.5, zorder=3,
                        color=_FLAGGED if point["qc_flag"] else fill,
                        label=point["sample"] if few else None)  # fmt: skip
            undefined = int(mine["value"].isna().sum())
            if undefined:
                ax.text(1.01, y, f"{undefined} undefined", va="center", ha="left", fontsize=7, color="#777777",
                        transform=ax.get_yaxis_transform())  # fmt: skip
        labels = [a if a == b else f"{a}  ↔  {b}" for a, b in zip(pairs["target"], pairs["target2"], strict=True)]
        ax.set_yticks(range(len(pairs)), short_names(labels, 60))
        ax.axvline(0, color="black", lw=0.6)
        low = float(np.nanmin([0.0, *sections["value"]]))
        ax.set_xlim(min(-0.05, low * 1.08), 1.02)
        ax.grid(axis="x", color="#E6E6E6", lw=0.6)
        ax.set_axisbelow(True)
        ax.set_xlabel("Pearson's r over the spots of a section; bar: mean of sections")
        fig.suptitle(
            f"{title}: {spec['labels']} against {spec['against']}, {sections['patient'].nunique()} patients, "
            f"{len(names)} sections", x=0.01, ha="left", fontsize=9.5,
        )  # fmt: skip
        _legend_once(fig, few)
        save(fig, out)


def _legend_once(fig: Figure, wanted: bool) -> None:
    handles, labels = fig.axes[0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if wanted and once:
        ordered = sorted(once)
        fig.legend(
            [once[name] for name in ordered], ordered, loc="outside right center", title="section", frameon=False
        )


def _joined(names: str | list[str]) -> str:
    return names if isinstance(names, str) else " + ".join(names)


def _few(joined: str) -> str:
    """Return the first of many joined names and the number of the others."""
    names = joined.split(" + ")
    return joined if len(names) < 3 else f"{names[0]} and {len(names) - 1} more types"


def _draw_regions(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    sections = rows[rows["aggregation"] == "section"]
    wide = sections.pivot_table(
        index=["target", "target2", "cohort", "sample", "qc_flag", "n"], columns="metric", values="value", dropna=True
    ).reset_index()
    order = [(_joined(pair["type"]), _joined(pair["region"])) for pair in spec["pairs"]]
    skipped = rows[rows["metric"] == "sections_skipped"].groupby(["target", "target2"])["value"].sum()
    count = sum(len(wide[(wide["target"] == a) & (wide["target2"] == b)]) for a, b in order) if len(wide) else 0
    with figure(7.6, 1.6 + 0.34 * len(order) + 0.24 * max(count, 2)) as fig:
        ax = fig.subplots()
        if not count:
            note(ax, "no section has spots inside and outside of a region")
            save(fig, out)
            return
        y, ticks, names = 0.0, [], []
        for number, (kind, region) in enumerate(order):
            mine = wide[(wide["target"] == kind) & (wide["target2"] == region)].sort_values("sample")
            face = PALETTE[number % len(PALETTE)]
            top = y
            for row in mine.to_dict("records"):
                tone = _FLAGGED if row["qc_flag"] else face
                if np.isfinite(row.get("auroc_low", np.nan)):
                    ax.plot([row["auroc_low"], row["auroc_high"]], [y, y], color=tone, lw=2)
                ax.plot(row["auroc"], y, "o", ms=5.5, color=tone, mec="black", mew=0.5)
                ticks.append(y)
                names.append(f"{row['sample']} ({int(row['n_inside'])} of {int(row['n'])})")
                y += 1
            mean = mine.loc[mine["qc_flag"] == "", "auroc"].mean()
            text = f"{_few(kind)} in {_few(region)}: mean {mean:.2f}, {len(mine)} sections"
            if skipped.get((kind, region), 0):
                text += f" ({int(skipped[kind, region])} without both sides)"
            ax.text(
                0.0, top - 0.95, text, fontsize=7, fontweight="bold", transform=ax.get_yaxis_transform(), va="center"
            )
            y += 1.4
        ax.axvline(0.5, color="black", lw=0.8, ls="--")
        ax.set_yticks(ticks, names)
        ax.set_ylim(y - 1.2, -1.8)
        ax.set_xlim(max(0.0, float(np.nanmin(wide[["auroc", "auroc_low"]])) - 0.05), 1.0)
        ax.set_xlabel("AUROC (0.5: no better than chance)\nline: 95 % DeLong interval over spots, which are neighbours")
        ax.set_ylabel("section (annotated spots inside of all)")
        fig.suptitle(title, x=0.01, ha="left", fontsize=9.5)
        save(fig, out)
