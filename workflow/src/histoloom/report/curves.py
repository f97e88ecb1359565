"""Losses by epoch: of training, and of the patients that a selection holds out of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histoloom.report.style import PALETTE, drawing, grid, heading, legend, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = {"train_loss": "loss, training", "val_loss": "loss, validation", "val_score": "score, validation"}


def read_curves(efficiency: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return by model, ``<experiment>/<model>.json``, what its trainings recorded; models without are left out.

    A training has ``fold``, ``seed``, ``part`` (``fit``, ``last`` or an inner fold) and lists by epoch: ``train_loss``
    and, where observations were held out of it, ``val_loss`` or ``val_score``.
    """
    by_model = {path.stem: json.loads(path.read_text()).get("curves") or [] for path in efficiency}
    return {model: curves for model, curves in by_model.items() if curves}


def draw_curves(*, title: str, efficiency: Sequence[Path], out: Path) -> None:
    """Draw the curves of every model: a pale line per training, their mean, and where the best score is.

    The mean is over trainings that are as long. Every model has a loss of its own, so that only the shape of a
    curve says something.
    """
    models = read_curves(efficiency)
    every = [training for curves in models.values() for training in curves]
    panels = [name for name in _PANELS if any(name in training for training in every)]
    cells = [(model, panel) for model in models for panel in panels]
    across = len(panels) if len(panels) > 1 else max(min(len(models), 3), 1)
    down = max(math.ceil(len(cells) / across), 1)
    with drawing(out, max(1.2 + 3.1 * across, 6.0), 1.3 + 2.0 * down) as fig:
        if not every:
            note(fig.subplots(), "no model of this experiment is trained by epochs")
            return
        axes = fig.subplots(down, across, squeeze=False).ravel()
        for ax in axes[len(cells) :]:
            ax.set_axis_off()
        for ax, (model, panel) in zip(axes, cells, strict=False):
            _draw_panel(ax, [training for training in models[model] if panel in training], panel)
            ax.set_title(f"{model}: {_PANELS[panel]}", fontsize=8.5)
        for ax in axes[max(len(cells) - across, 0) : len(cells)]:
            ax.set_xlabel("epoch")
        legend(fig, axes, loc="outside lower center", ncols=3)
        heading(fig, f"{title}\nlosses and scores by epoch")


def _draw_panel(ax: Axes, curves: Sequence[dict[str, Any]], panel: str) -> None:
    from matplotlib.ticker import MaxNLocator

    if not curves:
        note(ax, "nothing held out")
        return
    lengths = sorted({len(training[panel]) for training in curves})
    for number, length in enumerate(lengths):
        same = np.array([training[panel] for training in curves if len(training[panel]) == length])
        epochs = np.arange(1, length + 1)
        ax.plot(epochs, same.T, "." if length == 1 else "-", color="#BBBBBB", lw=0.6, zorder=1)
        ax.plot([], [], color="#BBBBBB", lw=0.6, label="one fold and training seed")
        # Folds of other sizes take other numbers of epochs for the same steps.
        mark: dict[str, Any] = {"marker": "o", "ms": 2.5} if length < 12 else {}
        ax.plot(epochs, same.mean(axis=0), color=PALETTE[0], lw=1.4, zorder=2, label="mean of as many epochs", **mark)
        if panel == "val_score":
            best = same.argmax(axis=1)
            ax.plot(epochs[best], same[np.arange(len(same)), best], "o", ms=3, mfc="none", mec=PALETTE[5], mew=0.7,
                    zorder=3, ls="none", label="best epoch" if not number else "_")  # fmt: skip
    ax.margins(x=0.02)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    grid(ax, "y")
