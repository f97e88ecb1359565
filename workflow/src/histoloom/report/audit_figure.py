"""The content guard as a picture: every pair of sections by how much of its content is shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.report.style import PALETTE, drawing, heading, note

_PANELS = (
    ("genes_shared", "share", "spots with a twin\non shared genes"),
    ("totals_shared", "share", "spots with equal totals\nand detected genes"),
    ("picture", "picture", "differing bits of\nthe picture's hash"),
)
_GROUPS = (
    ("different patients", PALETTE[0]),
    ("one patient", PALETTE[1]),
    ("the same section by content", PALETTE[5]),
)


def draw_audit(*, table: Path, title: str, out: Path) -> None:
    """Draw the evidence of `histoloom.audit.audit_sections`: a panel per kind, a point per pair of sections."""
    rows, limits = pd.read_parquet(table), read_metadata(table)["limits"]
    same_patient = rows["patient_first"] == rows["patient_second"]
    group = np.where(rows["verdict"] == "same", 2, np.where(same_patient, 1, 0))
    with drawing(out, 9.6, 3.9) as fig:
        if rows.empty:
            note(fig.subplots(), "fewer than two sections")
            return
        axes = fig.subplots(1, 3, sharey=True)
        for ax, (column, limit, label) in zip(axes, _PANELS, strict=True):
            values = rows[column].to_numpy(dtype=float)
            for number, (_, tone) in enumerate(_GROUPS):
                at = (group == number) & np.isfinite(values)
                # A fixed spread by rank: points of equal value stay apart, and the picture is the same every time.
                shift = (np.arange(at.sum()) * 0.61803 % 1 - 0.5) * 0.6
                ax.plot(values[at], number + shift, "o", ms=3.2, color=tone, alpha=0.6, mec="none")
            ax.axvline(limits[limit], color="black", ls="--", lw=0.9)
            ax.set_xlabel(f"{label}\n(dashed: limit {limits[limit]:.0%})")
            ax.set_xlim(-0.03, 1.03 if limit == "share" else 0.62)
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            missing = int((~np.isfinite(values)).sum())
            if missing:
                ax.set_title(f"{missing} pairs without", fontsize=8, color="#777777", loc="right")
        counts = [int((group == number).sum()) for number in range(3)]
        axes[0].set_yticks(range(3), [f"{name}\n({n} pairs)" for (name, _), n in zip(_GROUPS, counts, strict=True)])
        axes[0].set_ylim(-0.6, 2.6)
        leaks = int(((rows["verdict"] == "same") & (rows["sides"] != "")).sum())
        sections = len(set(rows["first"]) | set(rows["second"]))
        heading(
            fig,
            f"{title}: content of {sections} sections, {len(rows)} pairs; the same section on both sides: {leaks}",
            10,
        )
