"""What predictions on slides carry besides numbers: no negative abundance, where tissue ends, pictures for scanpy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import read_elements, read_metadata
from histoloom.lattice import at_edge
from histoloom.obs_keys import obs_keys
from histoloom.samples.section import open_section

Float32 = npt.NDArray[np.float32]


def without_negatives(values: Float32, how: str) -> tuple[Float32, float]:
    """Return predictions (n, T) that are not negative, and the share of values that were.

    `how`: ``clip`` sets them to 0; ``simplex`` takes the nearest point whose values are not negative and sum to 1
    (Duchi et al. 2008, 10.1145/1390156.1390191, figure 1), for proportions; ``keep`` leaves them.
    """
    share = float((values < 0).mean())
    if how == "clip":
        return np.maximum(values, 0), share
    if how == "simplex":
        ordered = -np.sort(-values.astype(np.float64), axis=1)
        excess = (np.cumsum(ordered, axis=1) - 1) / np.arange(1, values.shape[1] + 1)
        used = (ordered > excess).sum(axis=1) - 1
        return np.maximum(values - excess[np.arange(len(values)), used][:, None], 0).astype(np.float32), share
    return values, share


def tissue_of(tiles: Sequence[Path], obs: pd.DataFrame) -> pd.DataFrame:
    """Return tissue_fraction and edge of observations (index ``cohort/sample/obs_id``, columns array_row, array_col).

    ``edge``: a neighbour on the grid is no tissue. Such a tile often shows glass, which models take for something.
    """
    fractions = []
    for path in tiles:
        facts, table = read_metadata(path), pd.read_parquet(path, columns=["obs_id", "tissue_fraction"])
        keys = obs_keys(facts["cohort"], facts["sample"], table["obs_id"])
        fractions.append(table["tissue_fraction"].set_axis(keys))
    edge = pd.Series(False, index=obs.index)
    for _, part in obs.groupby(["cohort", "sample"], observed=True, sort=False):
        edge[part.index] = at_edge(part["array_row"], part["array_col"])
    return pd.DataFrame({"tissue_fraction": pd.concat(fractions).reindex(obs.index), "edge": edge})


def pictures_for_scanpy(samples: Iterable[Path]) -> dict[str, Any]:
    """Return ``uns["spatial"]`` of sections by sample, as scanpy and squidpy draw it: a small picture and its scale."""
    spatial: dict[str, Any] = {}
    for path in samples:
        section = open_section(path)
        start = f"uns/spatial/{section.sample}/scalefactors"
        names = [f"{start}/tissue_lowres_scalef", f"{start}/spot_diameter_fullres"]
        factors, picture = read_elements(path, names), section.picture("lowres")
        if picture is None or len(factors) < len(names):
            continue
        scale, diameter = (float(factors[name]) for name in names)
        # Both look for a picture called hires first.
        spatial[section.sample] = {
            "images": {"hires": picture},
            "scalefactors": {"tissue_hires_scalef": scale, "spot_diameter_fullres": diameter},
        }
    return spatial
