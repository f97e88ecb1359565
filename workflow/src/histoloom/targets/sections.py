"""A section's observations as every target has them: in tissue, on a kept tile, with place and patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.identity import canonical_json
from histoloom.samples.section import open_section
from histoloom.targets.artefact import plain

LOW_UMI = 100  # PROTOCOLS: observations with fewer counts are flagged, not dropped
_CARRIED = ("array_row", "array_col", "region")


@dataclass(frozen=True)
class Observed:
    """A section before anything is said to be predicted on it.

    Attributes
    ----------
    cohort, sample
        Names.
    obs
        All observations, index obs_id: cohort, sample, patient, obs_id, array_row, array_col, region where known, x, y,
        pitch_um, qc_flag, low_umi.
    kept
        bool (n,): in tissue and on a kept tile.
    step
        Counts so far: observations, in_tissue, kept.
    tiles_spec
        How its tiles were cut.
    """

    cohort: str
    sample: str
    obs: pd.DataFrame
    kept: np.ndarray
    step: dict[str, Any]
    tiles_spec: Mapping[str, Any]


def read_elements(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Read parts of an h5ad without its matrices and pictures."""
    import h5py
    from anndata.io import read_elem

    try:
        with h5py.File(path, "r") as handle:
            return {name: read_elem(handle[name]) for name in names if name in handle}
    except OSError as error:
        raise InputError(path, f"cannot be read as h5ad ({error}).", "remove it and run again.") from error


def observe(sample: Path, tile: Path) -> Observed:
    """Read a section and its tiles.

    Raises
    ------
    InputError
        If the tiles are another section's.
    """
    section, tiles_meta = open_section(sample), read_metadata(tile)
    meta, cohort, name = section.metadata, section.cohort, section.sample
    if (tiles_meta.get("cohort"), tiles_meta.get("sample")) != (cohort, name):
        raise InputError(
            tile,
            f"holds the tiles of another section than {sample}.",
            "give samples and tiles in the same order.",
        )
    obs = plain(section.obs)
    ids = pd.Index(obs.index)
    tiles = pd.read_parquet(tile, columns=["obs_id", "kept"]).set_index("obs_id")["kept"]
    in_tissue = obs["in_tissue"].to_numpy(bool)
    kept = in_tissue & tiles.reindex(ids).fillna(False).to_numpy(bool)
    keys = {"cohort": cohort, "sample": name, "patient": section.patient}
    frame = pd.DataFrame({**keys, "obs_id": ids}, index=ids)
    for column in _CARRIED:
        if column in obs:
            frame[column] = obs[column].to_numpy()
    frame["x"], frame["y"] = section.spatial.T
    pitch = meta.get("pitch_um")
    frame["pitch_um"] = float(pitch) if pitch is not None else np.nan
    frame["qc_flag"] = str(meta.get("qc_flag") or "")
    frame["low_umi"] = obs["n_counts"].to_numpy() < LOW_UMI
    step = {
        "cohort": cohort, "sample": name, "observations": len(obs), "in_tissue": int(in_tissue.sum()),
        "kept": int(kept.sum()),
    }  # fmt: skip
    return Observed(cohort, name, frame, kept, step, tiles_meta.get("spec", {}))


def one_tile_spec(specs: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return the one spec that all sections' tiles were cut by.

    Raises
    ------
    InputError
        If there are several.
    """
    found = {canonical_json(spec): dict(spec) for spec in specs}
    if len(found) > 1:
        raise InputError(
            f"tiles '{name}'",
            "sections were cut with different specs under one name.",
            "remove the tiles and run again.",
        )
    return next(iter(found.values()))
