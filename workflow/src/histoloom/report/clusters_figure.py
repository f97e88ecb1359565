"""Figure 2 of the CellSymphony paper, for any section: H&E, clusters over tissue, enrichment heat maps, UMAPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.artefacts import Table
from histoloom.report.style import DIVERGING, PALETTE, drawing, heading, note, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from histoloom.samples.section import Section

CAP = 5.0
"""-log10 q beyond this is drawn as this, as published."""
_MOST = 24


def draw_clusters(
    *, cells: Table, spec: Mapping[str, Any], section: Section, tables: Mapping[str, pd.DataFrame], out: Path
) -> None:
    """Draw a section: a line of H&E, labels, niches and contacts, then a line per representation.

    `tables` are those of `histoloom.report.clusters.describe`.
    """
    obs, xy = cells.obs, cells.obsm["spatial"]
    chosen = obs["clustered"].to_numpy(bool)
    names = [source["name"] for source in spec["representations"]]
    labels = sorted(obs["label"].unique())
    aspect = float(np.clip(np.ptp(xy[:, 1]) / max(np.ptp(xy[:, 0]), 1), 0.5, 1.6))
    with drawing(out, 15.0, (len(names) + 1) * (3.1 * aspect + 0.9) + 0.6) as fig:
        axes = fig.subplots(len(names) + 1, 4, squeeze=False)
        _picture(axes[0, 0], section, xy)
        _tissue(axes[0, 1], xy, obs["label"], labels, "labels")
        _tissue(axes[0, 2], xy, obs["niche"], sorted(obs["niche"].unique()), "niches of labels")
        _contacts(fig, axes[0, 3], tables["contacts"])
        for line, name in enumerate(names, start=1):
            cluster = obs[f"cluster_{name}"][chosen]
            order = sorted(cluster.unique(), key=lambda text: (len(text), text))
            _tissue(axes[line, 0], xy[chosen], cluster, order, f"{name}: clusters")
            enriched = tables["enrichment"]
            enriched = enriched[enriched["grouping"] == name]
            q = np.minimum(-np.log10(enriched["q"].clip(lower=1e-300)), CAP)
            title = f"-log10 q (at most {CAP:g})"
            _heat(fig, axes[line, 1], enriched.assign(value=q), order, labels, (0, CAP), "viridis", title)
            fold = np.log2(enriched["fold"].where(enriched["fold"] > 0))
            title = "log2 fold; ·: interval holds 1"
            _heat(fig, axes[line, 2], enriched.assign(value=fold), order, labels, (-3, 3), DIVERGING, title)
            _umap(
                axes[line, 3], cells.obsm[f"umap_{name}"][chosen], obs["label"][chosen], labels, f"{name}: UMAP, labels"
            )
        which = f"test cells of fold {spec['fold']}" if spec["cells"] == "test" else "all cells"
        heading(
            fig,
            f"{spec['name']}: {section.cohort}/{section.sample}, {len(obs)} cells with a label\n"
            f"clusters: {int(chosen.sum())} cells, {which}; white in heat maps: too few cells to test",
        )


def tone(index: int) -> Any:
    """Return the colour of the index-th of several names: the palette, then a map of twenty."""
    from matplotlib import colormaps

    return PALETTE[index] if index < len(PALETTE) else colormaps["tab20"](index % 20)


def _picture(ax: Axes, section: Section, xy: np.ndarray) -> None:
    from histoloom.report.section_view import view_section

    ax.set(xticks=[], yticks=[])
    if section.picture("hires") is None:
        note(ax, "no picture of the section")
        return
    view = view_section(section.path, xy)
    ax.imshow(view.image)
    view.crop(ax)
    view.scale_bar(ax)
    ax.set_title("the section")
    ax.spines[:].set_visible(False)


def _points(ax: Axes, xy: np.ndarray, names: pd.Series, order: Sequence[str], size: float) -> None:
    values = names.to_numpy(object)
    for at, name in enumerate(order):
        own = values == name
        ax.scatter(xy[own, 0], xy[own, 1], s=size, color=tone(at), linewidth=0, label=name, rasterized=True)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _named(ax: Axes, order: Sequence[str], n: int) -> None:
    """Name the colours of n points under the axes, where they are few enough to read."""
    if len(order) <= _MOST:
        scale = 5 / np.sqrt(_size(n))
        columns = 2 if max(map(len, order)) > 9 else 4
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=columns, frameon=False, fontsize=6.5,
                  handletextpad=0.1, columnspacing=0.8, markerscale=scale)  # fmt: skip


def _size(n: int) -> float:
    """Return the area of a point that n cells leave."""
    return float(np.clip(14000 / max(n, 1), 0.4, 14))


def _tissue(ax: Axes, xy: np.ndarray, names: pd.Series, order: Sequence[str], title: str) -> None:
    _points(ax, xy, names, order, _size(len(xy)))
    ax.set_aspect("equal")
    ax.invert_yaxis()
    ax.set_title(title)
    _named(ax, order, len(xy))


def _umap(ax: Axes, umap: np.ndarray, names: pd.Series, order: Sequence[str], title: str) -> None:
    _points(ax, umap, names, order, _size(len(umap)))
    ax.set_title(title)
    _named(ax, order, len(umap))


def _heat(
    fig: Figure,
    ax: Axes,
    enriched: pd.DataFrame,
    rows: list[str],
    columns: list[str],
    limits: tuple[float, float],
    colours: str,
    title: str,
) -> None:
    """Draw clusters by labels; white: too few cells to test."""
    grid = enriched.pivot_table(index="cluster", columns="label", values="value").reindex(index=rows, columns=columns)
    drawn = ax.imshow(grid.to_numpy(float), cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    if limits[0] < 0:
        unsure = enriched[(enriched["low"] <= 1) & (enriched["high"] >= 1)]
        for cluster, label in unsure[["cluster", "label"]].to_numpy(str):
            ax.text(columns.index(label), rows.index(cluster), "·", ha="center", va="center", fontsize=12)
    fig.colorbar(drawn, ax=ax, shrink=0.8, pad=0.02).outline.set_visible(False)
    _ticks(ax, rows, short_names(columns))
    ax.spines[:].set_visible(False)
    ax.set_title(title)


def _ticks(ax: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Name rows and columns in letters as small as their number asks for."""
    window = ax.get_window_extent()
    room_pt = np.array([window.height, window.width]) * 72 / ax.figure.dpi
    tall, wide = (min(7.0, room / max(n, 1) / 1.1) for room, n in zip(room_pt, (len(rows), len(columns)), strict=True))
    turned = {"rotation": 90, "va": "center"} if wide < 6 else {"rotation": 60}
    ax.set_xticks(range(len(columns)), columns, ha="right", rotation_mode="anchor", fontsize=wide, **turned)
    ax.set_yticks(range(len(rows)), rows, fontsize=tall)


def _contacts(fig: Figure, ax: Axes, contacts: pd.DataFrame) -> None:
    names = list(dict.fromkeys(contacts["first"]))
    grid = contacts.pivot_table(index="first", columns="second", values="z").reindex(index=names, columns=names)
    values = grid.to_numpy(float)
    most = float(np.clip(np.nanmax(np.abs(values)), 2, 20)) if np.isfinite(values).any() else 2.0
    drawn = ax.imshow(values, cmap=DIVERGING, vmin=-most, vmax=most, aspect="auto")
    fig.colorbar(drawn, ax=ax, shrink=0.8, pad=0.02).outline.set_visible(False)
    _ticks(ax, short_names(names), short_names(names))
    ax.spines[:].set_visible(False)
    ax.set_title("contacts, z within blocks")
