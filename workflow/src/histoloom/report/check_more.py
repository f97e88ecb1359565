"""Figures of the checks of tissue and chance: ceiling, sensitivity, colocalization, nuclei, regions of predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.metrics.ceiling import IDENTIFIABLE
from histoloom.report.coloc import as_matrix, cluster_order
from histoloom.report.style import DIVERGING, PALETTE, SEQUENTIAL, figure, jitter, note, save, short_names

_FLAGGED = "#9A9A9A"


def _title(title: str, text: str) -> dict[str, Any]:
    return {"t": f"{title}\n{text}" if text else title, "x": 0.01, "ha": "left", "fontsize": 9.5}


def draw_ceiling(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the ceiling of each type: sections as points, the cohort as a bar."""
    sections = rows[(rows["aggregation"] == "section") & (rows["metric"] == "ceiling") & (rows["target"] != "")]
    cohort = rows[(rows["aggregation"] == "cohort") & (rows["target"] != "")]
    mean = cohort.pivot_table(index="target", columns="metric", values="value", dropna=False)
    mean = mean.sort_values("reliability", ascending=False, kind="stable")
    names = sorted(sections["sample"].unique())
    few = len(names) <= len(PALETTE)
    with figure(7.4, 1.8 + 0.27 * max(len(mean), 4)) as fig:
        ax = fig.subplots()
        for y, (name, row) in enumerate(mean.iterrows()):
            good = row["reliability"] >= IDENTIFIABLE
            ax.barh(y, row["ceiling"], 0.72, color="#D5DDE3" if good else "#F0E9DF", zorder=1)
            mine = sections[sections["target"] == name]
            for shift, point in zip(jitter(len(mine), 0.4), mine.to_dict("records"), strict=True):
                tone = PALETTE[names.index(point["sample"])] if few else PALETTE[0]
                label = point["sample"] if few and not y else None
                tone = _FLAGGED if point["qc_flag"] else tone
                ax.plot(point["value"], y + shift, "o", ms=4, mec="white", mew=0.4, zorder=3, color=tone, label=label)
        ax.set_yticks(range(len(mean)), short_names(list(mean.index), 34))
        ax.invert_yaxis()
        ax.set_xlim(0, 1.02)
        ax.axvline(np.sqrt(IDENTIFIABLE), color="black", ls="--", lw=0.8)
        ax.set_xlabel(f"ceiling of CC; dashed: reliability {IDENTIFIABLE:g}; pale bars: not identifiable")
        if few:
            fig.legend(loc="outside right center", title="section", frameon=False)
        good = int((mean["reliability"] >= IDENTIFIABLE).sum())
        of = {"none": "", "log1p": " (log1p)", "proportion": " (proportions)"}[spec.get("transform", "none")]
        count = f"{good} of {len(mean)} types identifiable, {len(names)} section{'s'[: len(names) > 1]}"
        text = f"{spec['labels']}{of}, counts split in two: {count}"
        fig.suptitle(**_title(title, text))
        save(fig, out)


def _choices(names: list[str], rows: pd.DataFrame) -> list[str]:
    """Return each entry's name and, below it, in what it differs from the first."""
    stamp = json.loads(rows["protocol"].iloc[0] or "{}") if len(rows) else {}
    variants = (stamp.get("labels") or {}).get("variants") or {}
    first = variants.get(names[0]) or {}
    found = []
    for name in names:
        own = [f"{key} {value}" for key, value in (variants.get(name) or {}).items() if value != first.get(key)]
        found.append(f"{name}\n{', '.join(own)}" if own else name)
    return found


def draw_sensitivity(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw agreement of labels entries as a matrix: CC above the diagonal, ratio of abundance below."""
    names = list(spec["labels"])
    cohort = rows[(rows["aggregation"] == "cohort") & (rows["target"] == "")]
    by_type = rows[(rows["aggregation"] == "cohort") & (rows["target"] != "") & (rows["metric"] == "cc")]
    cc, ratio = np.full((len(names), len(names)), np.nan), np.full((len(names), len(names)), np.nan)
    mean = cohort.groupby(["gene_set", "k", "metric"])["value"].mean().reset_index()
    for a, b, metric, value in mean.itertuples(index=False):
        i, j = names.index(a), names.index(b)
        if metric == "cc":
            cc[min(i, j), max(i, j)] = value
        else:
            ratio[max(i, j), min(i, j)] = value if i < j else 1 / value
    pairs = by_type.sort_values("value", kind="stable").drop_duplicates("target")
    with figure(6.2 + 0.62 * len(names) + 3.2, 2.2 + 0.5 * max(len(names), 5)) as fig:
        ax, side = fig.subplots(1, 2, width_ratios=[1.45, 1])
        image = ax.imshow(cc, cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        ax.set_facecolor("#EFEFEF")
        for (i, j), value in np.ndenumerate(cc):
            if np.isfinite(value):
                tone = "white" if value < 0.6 else "black"
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=tone)
            elif np.isfinite(ratio[i, j]):
                ax.text(j, i, f"×{ratio[i, j]:.2g}", ha="center", va="center", fontsize=8)
        ax.set_xticks(range(len(names)), names, rotation=40, ha="right")
        ax.set_yticks(range(len(names)), _choices(names, rows))
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title("above: CC; below: total abundance, row over column", fontsize=8.5)
        fig.colorbar(image, ax=ax, shrink=0.7, pad=0.02).set_label("CC, mean over types")
        shown = pairs.iloc[:14]
        side.barh(range(len(shown)), shown["value"], 0.7, color=PALETTE[0])
        for y, row in enumerate(shown.to_dict("records")):
            side.text(0.015, y, f"{row['gene_set']} – {row['k']}", va="center", fontsize=7, color="black",
                      transform=side.get_yaxis_transform(),
                      bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.8})  # fmt: skip
        side.set_yticks(range(len(shown)), short_names(list(shown["target"]), 26))
        side.invert_yaxis()
        side.set_xlim(min(0, float(np.nanmin([0, *shown["value"]]))), 1)
        side.set_title("the two that agree least, by type", fontsize=8.5)
        side.set_xlabel("CC")
        n = rows[rows["aggregation"] == "section"]["sample"].nunique()
        fig.suptitle(**_title(title, f"the same spots labelled in {len(names)} ways, {n} section{'s'[: n > 1]}"))
        save(fig, out)


def draw_significance(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw Moran's R of the labels; pairs beyond chance are marked."""
    rows = rows[rows["aggregation"] == "cohort"]
    w = rows[rows["metric"].isin(["w_neighbours", "w_self_share"])].groupby("metric")["value"].mean()
    maps = rows[rows["metric"].isin(["morans_r", "morans_q"])]
    types = sorted(set(maps["target"]) | set(maps["target2"]))
    with figure(2.9 + 0.27 * max(len(types), 10), 2.6 + 0.24 * max(len(types), 10)) as fig:
        ax = fig.subplots()
        if len(types) < 2:
            note(ax, "no section with array coordinates and without a QC flag")
            save(fig, out)
            return
        one = maps[maps["cohort"] == sorted(maps["cohort"].unique())[0]]
        r, q = (as_matrix(one[one["metric"] == name], types) for name in ("morans_r", "morans_q"))
        keep = np.isfinite(np.diagonal(r))
        r, q, names = r[np.ix_(keep, keep)], q[np.ix_(keep, keep)], [t for t, k in zip(types, keep, strict=True) if k]
        order = cluster_order(np.nan_to_num(r))
        r, q, names = r[np.ix_(order, order)], q[np.ix_(order, order)], [names[i] for i in order]
        off = ~np.eye(len(names), dtype=bool)
        limit = max(float(np.nanmax(np.abs(r[off]))), 1e-6)
        image = ax.imshow(np.where(off, r, np.nan), cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_facecolor("#D9D9D9")
        found = (q <= spec["fdr"]) & off
        for i, j in np.argwhere(found):
            ax.plot(j, i, "o", ms=2.8, mfc="black", mec="white", mew=0.4)
        size = float(np.clip(200 / len(names), 5, 8))
        ax.set_xticks(range(len(names)), short_names(names, 24), rotation=90, fontsize=size)
        ax.set_yticks(range(len(names)), short_names(names, 24), fontsize=size)
        ax.tick_params(length=0)
        fig.colorbar(image, ax=ax, shrink=0.7, pad=0.02).set_label("bivariate Moran's R (diagonal not drawn)")
        tests = int(np.isfinite(q[off]).sum() / 2)
        text = (
            f"{spec['labels']}: {int(found.sum() / 2)} of {tests} pairs at FDR {spec['fdr']:g} (dots), "
            f"{spec['permutations']} {spec['scheme']} permutations\n{one['n'].max()} patients; W "
            f"{(spec.get('moran') or {}).get('protocol', 'array')}: {w.get('w_neighbours', np.nan):.1f} neighbours, "
            f"self {w.get('w_self_share', np.nan):.0%} of all weight"
        )
        fig.suptitle(**_title(title, text))
        save(fig, out)


def draw_nuclei(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the correlation of total abundance with counted nuclei, and their ratio, by section and model."""
    sections = rows[rows["aggregation"] == "section"]
    models = sorted(sections["model"].unique())
    place = sections[["cohort", "sample"]].drop_duplicates().sort_values(["cohort", "sample"])
    names = [f"{a}/{b}" for a, b in place.itertuples(index=False)]
    medians = sections[sections["metric"] == "nuclei_median"].drop_duplicates(["cohort", "sample"])
    median = {f"{r['cohort']}/{r['sample']}": r["value"] for r in medians.to_dict("records")}
    with figure(8.6, 1.9 + 0.3 * max(len(names), 3)) as fig:
        axes = fig.subplots(1, 2, sharey=True)
        for ax, metric in zip(axes, ("nuclei_cc", "nuclei_ratio"), strict=True):
            for i, model in enumerate(models):
                mine = sections[(sections["metric"] == metric) & (sections["model"] == model)]
                y = np.array([names.index(f"{a}/{b}") for a, b in zip(mine["cohort"], mine["sample"], strict=True)])
                shift = (i - (len(models) - 1) / 2) * 0.6 / max(len(models), 1)
                ax.plot(mine["value"], y + shift, "o", ms=5, color=PALETTE[i % len(PALETTE)], label=model)
            ax.grid(axis="x", color="#E6E6E6", lw=0.6)
        if not np.isfinite(sections.loc[sections["metric"] == "nuclei_cc", "value"]).any():
            axes[0].text(0.5, 0.5, "undefined: proportions have no total", ha="center", transform=axes[0].transAxes,
                         color="#555555")  # fmt: skip
        axes[0].axvline(0, color="black", lw=0.6)
        axes[0].set_xlabel("Pearson's r over spots")
        axes[1].axvline(1, color="black", lw=0.6, ls="--")
        axes[1].set_xlabel("total abundance / counted nuclei")
        if not np.isfinite(sections.loc[sections["metric"] == "nuclei_ratio", "value"]).any():
            note(axes[1], "proportions have no total")
        axes[0].set_yticks(range(len(names)), [f"{n} ({median.get(n, np.nan):.0f} nuclei)" for n in names])
        axes[0].invert_yaxis()
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside right center", frameon=False)
        what = spec.get("labels") or f"held-out predictions of {spec.get('experiment')}"
        fig.suptitle(**_title(title, f"total abundance of {what} against nuclei counted under the spot (median)"))
        save(fig, out)


def draw_predicted_regions(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
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
            for (cohort, sample), here in part.groupby(["cohort", "sample"], sort=True):
                for row in here.to_dict("records"):
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
        fig.suptitle(**_title(title, f"held-out predictions of {spec['experiment']} against a pathologist's regions"))
        save(fig, out)


def draw_kept(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the share of tiles that the background filter keeps, per region."""
    text = f"tiles {spec['tiles']}: what the background filter keeps of each region"
    _draw_by_region(rows[rows["metric"] == "kept"], "share of tiles kept", (0.0, 1.0), _title(title, text), out)


def draw_residual(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw what a deconvolution leaves unexplained, per region."""
    values = rows.loc[rows["aggregation"] == "section", "value"]
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    room = 0.05 * max(high - low, 1e-6)
    text = f"{spec['labels']}: loss of r against counts drawn from the fit (0: only counting noise is left)"
    _draw_by_region(rows, "excess residual", (low - room * (low < 0), high + room), _title(title, text), out)


def _draw_by_region(
    rows: pd.DataFrame, what: str, limits: tuple[float, float], heading: dict[str, Any], out: Path
) -> None:
    """Draw one number per region: the cohort's mean as a bar, sections as points."""
    mean = rows[rows["aggregation"] == "cohort"].groupby("target")["value"].mean().sort_values(kind="stable")
    sections = rows[rows["aggregation"] == "section"]
    with figure(7.0, 1.8 + 0.36 * max(len(mean), 3)) as fig:
        ax = fig.subplots()
        ax.barh(range(len(mean)), mean, 0.66, color="#D5DDE3")
        beside: dict[str, Any] = {
            "va": "center",
            "fontsize": 7,
            "color": "#555555",
            "transform": ax.get_yaxis_transform(),
        }
        for y, name in enumerate(mean.index):
            mine = sections[sections["target"] == name].sort_values("sample")
            ax.plot(mine["value"], y + jitter(len(mine), 0.36), "o", ms=4, color=PALETTE[0], mec="white", mew=0.4)
            ax.text(1.01, y, f"{int(mine['n'].sum())} spots, {len(mine)} sect.", **beside)
        ax.set_yticks(range(len(mean)), mean.index)
        ax.set_xlim(*limits)
        ax.set_xlabel(f"{what}; points: sections")
        fig.suptitle(**heading)
        save(fig, out)
