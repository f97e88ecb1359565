"""The error gallery: for each type the best hits, false positives and misses of held-out patients, as tiles.

A number says how often a model errs; a pathologist wants to see on what. Cases are chosen by ranks within a section, so
that a section's level neither makes nor hides an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.exports.geojson import CASE_COLOURS
from histoloom.metrics.scored import read_predictions
from histoloom.report.maps import positions
from histoloom.report.style import drawing, heading, note, short_names
from histoloom.slides import open_slide
from histoloom.tiles.reading import read_tiles

_KEYS = ["cohort", "sample", "patient", "obs_id"]
KINDS = ("hit", "false positive", "miss")
_TILE_PX = 168
TILE_UM = 160.0
_BAR_UM = 50.0
COLUMNS = [
    "target", "case", "place", "cohort", "sample", "patient", "obs_id", "x", "y", "label", "prediction", "label_rank",
    "prediction_rank",
]  # fmt: skip


def find_cases(predictions: Path, *, most: int = 6, each: int = 3) -> pd.DataFrame:
    """Choose `each` cases of each kind of the `most` types whose label varies most for its mean, as `COLUMNS`.

    Ranks are shares of the section's observations that are lower, 0 to 1. A hit has high ranks in both (the lower one
    counts), a false positive a high prediction on a low label, a miss the reverse. Patients take turns where several
    were held out; a flagged section gives no case.
    """
    scored = read_predictions(predictions)
    obs = scored.obs.reset_index(drop=True).astype(dict.fromkeys(_KEYS, str))
    first = ~obs.duplicated(["cohort", "sample", "obs_id"])
    rows = np.flatnonzero((obs["qc_flag"] == "") & first)
    obs, xy = obs.iloc[rows].reset_index(drop=True), positions(predictions)[rows]
    label = pd.DataFrame(scored.reference["labels"][rows], columns=scored.types)
    made = pd.DataFrame(scored.prediction[rows], columns=scored.types)
    spread = (label.std() / label.mean().where(label.mean() > 0)).sort_values(ascending=False, kind="stable")
    section = [obs["cohort"], obs["sample"]]
    cases = []
    for name in spread.dropna().index[:most]:
        ranks = pd.DataFrame({"label": label[name], "prediction": made[name]})
        ranks = ranks.groupby(section).rank(method="average", pct=True)
        constant = pd.DataFrame({"v": made[name]}).groupby(section)["v"].transform("nunique") < 2
        score = {
            "hit": ranks.min(axis=1),
            "false positive": ranks["prediction"] - ranks["label"],
            "miss": ranks["label"] - ranks["prediction"],
        }
        for case in KINDS:
            for place, i in enumerate(_turns(score[case].mask(constant), obs["patient"], each)):
                cases.append(
                    {"target": name, "case": case, "place": place, **dict(obs.loc[i, _KEYS]),
                     "x": xy[i, 0], "y": xy[i, 1], "label": label[name][i], "prediction": made[name][i],
                     "label_rank": ranks["label"][i], "prediction_rank": ranks["prediction"][i]}
                )  # fmt: skip
    return pd.DataFrame(cases, columns=COLUMNS)


def read_cases(path: Path) -> pd.DataFrame:
    # "NA" and "nan" are names of sections; only an empty cell is missing.
    return pd.read_csv(path, dtype=dict.fromkeys(_KEYS, str), keep_default_na=False, na_values=[""])


def _turns(score: pd.Series, patient: pd.Series, each: int) -> list[int]:
    """Return the positions of the best scores, patients taking turns."""
    order = score.dropna().sort_values(ascending=False, kind="stable").index
    turn = patient[order].groupby(patient[order], sort=False).cumcount()
    chosen = turn.sort_values(kind="stable").index[:each]
    return [int(i) for i in sorted(chosen, key=lambda i: -score[i])]


def draw_errors(*, cases: pd.DataFrame, samples: Sequence[Path], slides: Sequence[Path], title: str, out: Path) -> None:
    """Draw cases as tiles of their slides, one line per type; `samples` and `slides` are in the same order."""
    facts = {}
    for metadata, slide in zip(map(read_metadata, samples), slides, strict=True):
        facts[str(metadata["cohort"]), str(metadata["sample"])] = (metadata, slide)
    tiles = _read_tiles(cases, facts)
    types = list(dict.fromkeys(cases["target"]))
    each = int(cases["place"].max()) + 1 if len(cases) else 1
    with drawing(out, 1.25 * each * len(KINDS) + 1.4, 1.5 * max(len(types), 1) + 0.9) as fig:
        if not len(cases):
            note(fig.subplots(), "no held-out section without a QC flag")
            return
        axes = fig.subplots(len(types), each * len(KINDS), squeeze=False)
        for ax in axes.ravel():
            ax.set_axis_off()
        for k, case in enumerate(KINDS):
            axes[0][k * each + each // 2].set_title(f"{case}\n", fontsize=9.5, color=np.array(CASE_COLOURS[case]) / 255)
        for cells in cases.itertuples(index=False):
            row: dict[str, Any] = dict(zip(COLUMNS, cells, strict=True))
            i, j = types.index(row["target"]), KINDS.index(row["case"]) * each + int(row["place"])
            metadata, _ = facts[row["cohort"], row["sample"]]
            _draw_tile(axes[i][j], tiles[row["cohort"], row["sample"], row["obs_id"]], metadata, row)
        for i, name in enumerate(types):
            words = "\n".join(short_names(name.replace("_", " ").split(), 14))
            place = {"ha": "right", "va": "center", "transform": axes[i][0].transAxes}
            axes[i][0].text(-0.12, 0.5, words, fontsize=8, **place)
        patients = cases["patient"].nunique()
        heading(
            fig,
            f"{title}: tiles of {patients} held-out patients; circle: the spot, bar: {_BAR_UM:g} µm\nunder each tile "
            "its section and spot, and the ranks of label → prediction within the section (100 %: the highest)",
            9,
        )


def _read_tiles(cases: pd.DataFrame, facts: Mapping[tuple[str, str], Any]) -> dict[tuple[str, str, str], np.ndarray]:
    """Return a picture of each case; each slide is opened once."""
    tiles: dict[tuple[str, str, str], np.ndarray] = {}
    for key, part in cases.groupby(["cohort", "sample"], sort=True):
        cohort, sample = (str(name) for name in cast("tuple[str, str]", key))
        if (cohort, sample) not in facts:
            problem, remedy = "its slide was not given.", "give the sections that were predicted."
            raise InputError(f"{cohort}/{sample}", problem, remedy, code="report-no-slide")
        metadata, path = facts[cohort, sample]
        part = part.drop_duplicates("obs_id")
        with open_slide(path) as slide:
            read = read_tiles(slide, part[["x", "y"]], TILE_UM / float(metadata["mpp"]), _TILE_PX, exact=False)
            tiles |= {(cohort, sample, str(name)): tile for name, tile in zip(part["obs_id"], read, strict=True)}
    return tiles


def _draw_tile(ax: Any, tile: np.ndarray, metadata: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    from matplotlib.patches import Circle

    ax.imshow(tile, interpolation="bilinear")
    per_um = _TILE_PX / TILE_UM
    tone = np.array(CASE_COLOURS[row["case"]]) / 255
    diameter = metadata.get("spot_diameter_um")
    if diameter:
        ax.add_patch(Circle((_TILE_PX / 2, _TILE_PX / 2), float(diameter) / 2 * per_um, fill=False, ec=tone, lw=1.1))
    ax.plot([8, 8 + _BAR_UM * per_um], [_TILE_PX - 9] * 2, color="black", lw=2.2, solid_capstyle="butt")
    ax.set_xlim(0, _TILE_PX)
    ax.set_ylim(_TILE_PX, 0)
    ax.text(_TILE_PX / 2, _TILE_PX + 6, f"{row['sample']} {row['obs_id']}\n"
            f"{row['label_rank']:.0%} → {row['prediction_rank']:.0%}", ha="center", va="top", fontsize=7.5)  # fmt: skip
