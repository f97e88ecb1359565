"""Features that other software computed, as the ordinary embedding artefact.

TRIDENT (mahmoodlab/TRIDENT, ``WSI.extract_patch_features``) writes ``features`` (n, d) and ``coords`` (n, 2), the top
left corners in level-0 px of a grid of its own, with the grid's facts as attributes of ``coords``; some tools add an
axis, (1, n, d). HEST's benchmark (mahmoodlab/HEST, ``benchmark.embed_tiles``) writes ``embeddings``, ``coords`` and
``barcodes`` (n, 1), one row per patch of ``patches/<id>.h5``. Neither says which weights were used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import identity_of, read_metadata
from histoloom.embeddings.artefact import card_content
from histoloom.embeddings.sections import Section, open_sections, write_sections
from histoloom.errors import InputError
from histoloom.samples.tables import as_text, plain_id
from histoloom.tiles.spec import TileSpec

logger = logging.getLogger(__name__)

SAME_SCALE = 0.02
"""Relative difference of um or px that rounding explains: TRIDENT's level-0 sides are whole px."""
_ARRAYS = {"trident": ("features", "coords"), "hest": ("embeddings", "coords", "barcodes")}
_FETCH = "give the section's own file, or give the section a reason in the sheet's 'exclude' column."
Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """A file's rows."""

    path: Path
    features: npt.NDArray[np.float32]
    corners: Float  # (n, 2), x and y of the tiles' top left corners, level-0 px
    obs_ids: pd.Index | None  # None where rows have places only
    facts: Mapping[str, Any]  # attributes of ``coords`` and ``features``

    @cached_property
    def grid(self) -> tuple[float, int]:
        """Side of a grid's tiles in level-0 px, and in their own px."""
        facts = self.facts
        try:
            px = int(facts["patch_size"])
            if "patch_size_level0" in facts:
                return float(facts["patch_size_level0"]), px
            return px * float(facts["level0_magnification"]) / float(facts["target_magnification"]), px
        except (KeyError, TypeError, ValueError) as error:
            named = ", ".join(facts) or "none"
            problem = f"attributes of coords do not give the tiles' size ({error}); found: {named}."
            remedy = "give TRIDENT's own h5 of features, which carries patch_size and patch_size_level0."
            raise InputError(self.path, problem, remedy, code="features-attributes") from error

    def nearest(self, section: Section) -> tuple[Float, Int]:
        """Return how far the nearest tile of a grid is from each kept tile, um, and its row."""
        from scipy.spatial import cKDTree

        shift, row = cKDTree(self.corners + self.grid[0] / 2).query(section.centres)
        return shift * float(section.facts["mpp"]), row.astype(np.int64)


def import_embeddings(
    *,
    cohort: str,
    batch: str,
    samples: Sequence[Path],
    tiles: Sequence[Path],
    features: Sequence[Path],
    spec: Mapping[str, Any],
    out: Path,
) -> None:
    """Give observations the features of their tiles; kept tiles without a feature are left out.

    ``samples``, ``tiles`` and ``features`` are sections (h5ad), their tables of tiles (parquet) and files of features
    (h5) in the same order; ``spec`` an entry of kind precomputed with ``card`` (full), ``tiles_spec`` and ``name``.
    """
    sections = open_sections(cohort, samples, [Path()] * len(samples), tiles, spec["tiles_spec"])
    tables = [read_table(Path(path), spec["format"]) for path in features]
    _check_one_encoder(tables, spec["card"])
    kept, parts, summaries = [], [], {}
    for section, table in zip(sections, tables, strict=True):
        rows = match(section, table, spec)
        has = rows >= 0
        kept.append(replace(section, obs_id=section.obs_id[has], centres=section.centres[has]))
        parts.append(table.features[rows[has]])
        summaries[section.sample] = _summary(kept[-1], table, rows)
        logger.info("%s/%s: %s", cohort, section.sample, summaries[section.sample])
    tiles_spec = TileSpec.from_dict(spec["tiles_spec"]).as_dict()
    chosen = {key: spec[key] for key in ("format", "max_shift_um", "max_missing")}
    encoder_said = tables[0].facts["encoder"]
    write_sections(
        out,
        cohort,
        batch,
        kept,
        parts,
        stage="embeddings.precomputed",
        params={"card": card_content(spec["card"]), "tiles_spec": tiles_spec, **chosen},
        inputs={f"features.{s.sample}": identity_of(t.path) for s, t in zip(sections, tables, strict=True)},
        card=spec["card"],
        # Begins with `local`: it is unknown which weights made the features.
        revision="local features",
        weights_sha256=None,
        dim=int(tables[0].features.shape[1]),
        feature_names=None,
        tiles_spec=tiles_spec,
        encoder=spec["name"],
        precomputed={**chosen, "encoder_said": encoder_said and str(encoder_said), "sections": summaries},
    )


def read_table(path: Path, form: str) -> Table:
    """Read an h5 of features in the form ``trident`` or ``hest``."""
    import h5py

    if not path.is_file():
        remedy = f"fix `files` of the encoder; {_FETCH}"
        raise InputError(path, "the file of features is missing.", remedy, code="features-missing")
    names = _ARRAYS[form]
    try:
        with h5py.File(path, "r") as handle:
            missing = [name for name in names if name not in handle]
            if missing:
                others = [other for other, held in _ARRAYS.items() if all(name in handle for name in held)]
                remedy = f"it looks like `format: {others[0]}`." if others else _FETCH
                held = ", ".join(handle) or "nothing"
                problem = f"no {form} file: no dataset {', '.join(missing)}; it holds {held}."
                raise InputError(path, problem, remedy, code="features-format")
            values = np.asarray(handle[names[0]], np.float32)
            corners = np.asarray(handle["coords"], np.float64)
            raw_ids = np.ravel(handle["barcodes"][()]) if form == "hest" else None
            facts = {**dict(handle["coords"].attrs), "encoder": handle[names[0]].attrs.get("encoder")}
    except OSError as error:
        raise InputError(path, f"no readable h5 ({error}).", _FETCH, code="features-unreadable") from error
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    corners = corners[0] if corners.ndim == 3 and len(corners) == 1 else corners
    n = len(values)
    if values.ndim != 2 or corners.shape != (n, 2) or n == 0 or (raw_ids is not None and len(raw_ids) != n):
        ended = "" if raw_ids is None else f" and {len(raw_ids)} barcodes"
        problem = f"{names[0]} {values.shape}, coords {corners.shape}{ended} do not belong together: (n, d), (n, 2)."
        raise InputError(path, problem, _FETCH, code="features-shape")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        problem = f"{int(bad.sum())} rows have NaN or infinity, the first is row {int(np.argmax(bad))}."
        raise InputError(path, problem, _FETCH, code="features-nan")
    if raw_ids is None:
        return Table(path, values, corners, None, facts)
    ids = pd.Index([plain_id(name) for name in as_text(raw_ids)], dtype=object)
    if ids.has_duplicates:
        problem = f"barcode '{ids[ids.duplicated()][0]}' appears more than once."
        raise InputError(path, problem, _FETCH, code="features-barcode-twice")
    return Table(path, values, corners, ids, facts)


def _check_one_encoder(tables: Sequence[Table], card: Mapping[str, Any]) -> None:
    first = tables[0]
    expected = card["dim"] or first.features.shape[1]
    for table in tables:
        dim, encoder = table.features.shape[1], table.facts["encoder"]
        if dim != expected:
            problem = f"features have {dim} numbers, card '{card['name']}' gives {expected}: of another encoder."
            raise InputError(table.path, problem, "fix `card` or `files` of the encoder.", code="features-dim")
        if encoder != first.facts["encoder"]:
            problem = f"says encoder '{encoder}', {first.path} says '{first.facts['encoder']}'."
            raise InputError(table.path, problem, "give files of one encoder.", code="features-encoder")


def match(section: Section, table: Table, spec: Mapping[str, Any]) -> Int:
    """Return the row of each kept tile, -1 where there is none."""
    where = f"{table.path}, section '{section.sample}'"
    by = _by_place if table.obs_ids is None else _by_id
    rows = by(section, table, spec, where)
    lost = rows < 0
    if lost.mean() > spec["max_missing"]:
        first, allowed = section.obs_id[int(np.argmax(lost))], f"`max_missing` allows {100 * spec['max_missing']:.0f} %"
        problem = f"{lost.sum()} of {len(rows)} kept tiles have no feature, first '{first}'; {allowed}."
        if table.obs_ids is None:
            problem += f" The nearest tile is {np.median(table.nearest(section)[0]):.0f} um away in the median."
        remedy = f"raise `max_shift_um` or `max_missing`, or {_FETCH}"
        raise InputError(where, problem, remedy, code="features-incomplete")
    return rows


def _by_id(section: Section, table: Table, spec: Mapping[str, Any], where: str) -> Int:
    """Find rows by barcode, and check that their tiles lie on their observations and have the size asked for."""
    assert table.obs_ids is not None
    rows: Int = table.obs_ids.get_indexer(pd.Index(section.obs_id, dtype=object)).astype(np.int64)
    has = rows >= 0
    if not has.any():
        barcodes, observations = ", ".join(table.obs_ids[:3]), ", ".join(map(str, section.obs_id[:3]))
        problem = f"no barcode is an observation of the section: {barcodes}, ... against {observations}, ..."
        raise InputError(where, problem, _FETCH, code="features-obs")
    mpp, side = float(section.facts["mpp"]), float(section.facts["size_level0_px"])
    corners, centres = table.corners[rows[has]], section.centres[has]
    # The file says nothing of its tiles' size: observations in their middles do.
    measured = 2 * float(np.median(centres - corners))
    shift = np.hypot(*(corners + measured / 2 - centres).T) * mpp
    off = int((shift > spec["max_shift_um"]).sum())
    if off:
        problem = f"{off} of {len(shift)} tiles lie up to {shift.max():.0f} um off: coords are of another section."
        raise InputError(where, problem, _FETCH, code="features-section")
    if abs(measured / side - 1) > SAME_SCALE:
        sides = f"{measured:.1f} level-0 px = {measured * mpp:.1f} um, not {side:.1f} px = {side * mpp:.1f} um"
        problem = f"its tiles have a side of {sides} as tile spec '{spec['tiles']}' asks."
        remedy = "name tiles of that size, or features made from such tiles."
        raise InputError(where, problem, remedy, code="features-tile-size")
    return rows


def _by_place(section: Section, table: Table, spec: Mapping[str, Any], where: str) -> Int:
    """Find the tile with the nearest centre, -1 beyond ``max_shift_um``, on a grid of this slide and of this size."""
    (side, px), of_section = table.grid, read_metadata(section.path)
    slide = {key: of_section[f"slide_{key}"] for key in ("width", "height")}
    stated = {key: int(table.facts.get(f"level0_{key}", size)) for key, size in slide.items()}
    if stated != slide:
        sizes = [f"{size['width']} x {size['height']} px" for size in (stated, slide)]
        problem = f"was made on a slide of {sizes[0]}; the section's has {sizes[1]}."
        raise InputError(where, problem, _FETCH, code="features-slide")
    mpp, tiles = float(section.facts["mpp"]), TileSpec.from_dict(spec["tiles_spec"])
    own, wanted = side * mpp / px, tiles.effective_um_per_px(mpp)
    if px != tiles.size_px or abs(own / wanted - 1) > SAME_SCALE:
        asked = f"tile spec '{spec['tiles']}' asks for {tiles.size_px} px at {wanted:.4g} um/px"
        problem = f"its tiles are {px} px at {own:.4g} um/px ({side:.0f} level-0 px, {side * mpp:.1f} um), but {asked}."
        tiles_of = f"`size_px: {px}` and `um_per_px: {own:.4g}` (20x is not 0.5 um/px on every scanner)"
        remedy = f"use tiles with {tiles_of}, or features made from such tiles."
        raise InputError(where, problem, remedy, code="features-tile-size")
    shift, nearest = table.nearest(section)
    return np.where(shift <= spec["max_shift_um"], nearest, -1)


def _summary(kept: Section, table: Table, rows: Int) -> dict[str, Any]:
    """Return what became of a section's tiles: counts, and how far the rows of the kept ones lie from them."""
    used = rows[rows >= 0]
    side = table.grid[0] if table.obs_ids is None else float(kept.facts["size_level0_px"])
    shift = np.hypot(*(table.corners[used] + side / 2 - kept.centres).T) * float(kept.facts["mpp"])
    return {
        "n_tiles": len(rows),
        "n_missing": len(rows) - len(used),
        "n_rows": len(table.features),
        "n_rows_unused": len(table.features) - len(np.unique(used)),
        "shift_um_median_max": [round(float(v), 3) for v in (np.median(shift), shift.max())] if len(shift) else None,
    }
