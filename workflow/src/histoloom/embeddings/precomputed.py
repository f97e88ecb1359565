"""Features that other software computed, as the ordinary embedding artefact.

TRIDENT (mahmoodlab/TRIDENT, ``WSI.extract_patch_features``) writes ``features`` (n, d) and ``coords`` (n, 2), the top
left corners in level-0 px of a grid of its own, with the grid's facts as attributes of ``coords``; some tools add an
axis, (1, n, d). HEST's benchmark (mahmoodlab/HEST, ``benchmark.embed_tiles``) writes ``embeddings``, ``coords`` and
``barcodes`` (n, 1), one row per patch of ``patches/<id>.h5``. Neither says which weights were used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import identity_of, read_metadata
from histoloom.embeddings.artefact import card_content, write_embeddings
from histoloom.embeddings.sections import Section, open_sections
from histoloom.errors import InputError
from histoloom.identity import make_identity
from histoloom.samples.hest_values import plain_id
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
    card = spec["card"]
    sections = open_sections(cohort, samples, [Path()] * len(samples), tiles, spec["tiles_spec"])
    tables = [read_table(Path(path), spec["format"]) for path in features]
    _check_one_encoder(tables, card)
    rows, summaries = [], {}
    for section, table in zip(sections, tables, strict=True):
        matched = match(section, table, spec)
        rows.append(matched)
        summaries[section.sample] = _summary(section, table, matched, spec)
        logger.info("%s/%s: %s", cohort, section.sample, summaries[section.sample])
    parts = [table.features[matched[matched >= 0]] for table, matched in zip(tables, rows, strict=True)]
    has = [matched >= 0 for matched in rows]
    write_embeddings(
        out,
        features=parts,
        coords=np.concatenate([s.centres[kept] for s, kept in zip(sections, has, strict=True)]),
        sample=[s.sample for s, kept in zip(sections, has, strict=True) for _ in range(int(kept.sum()))],
        obs_id=[str(i) for s, kept in zip(sections, has, strict=True) for i in s.obs_id[kept]],
        metadata=_metadata(cohort, batch, sections, tables, card, spec, summaries),
    )


def read_table(path: Path, form: str) -> Table:
    """Read an h5 of features in the form ``trident`` or ``hest``."""
    import h5py

    if not path.is_file():
        raise InputError(
            path, "the file of features is missing.", f"fix `files` of the encoder; {_FETCH}", code="features-missing"
        )
    names = _ARRAYS[form]
    try:
        with h5py.File(path, "r") as handle:
            missing = [name for name in names if name not in handle]
            if missing:
                held = ", ".join(handle) or "nothing"
                problem = f"no {form} file: no dataset {', '.join(missing)}; it holds {held}."
                raise InputError(path, problem, _remedy(handle), code="features-format")
            values = np.asarray(handle[names[0]], np.float32)
            corners = np.asarray(handle["coords"], np.float64)
            ids = np.ravel(handle["barcodes"][()]) if form == "hest" else None
            facts = {**dict(handle["coords"].attrs), "encoder": handle[names[0]].attrs.get("encoder")}
    except OSError as error:
        raise InputError(path, f"no readable h5 ({error}).", _FETCH, code="features-unreadable") from error
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    corners = corners[0] if corners.ndim == 3 and len(corners) == 1 else corners
    n = len(values)
    if values.ndim != 2 or corners.shape != (n, 2) or n == 0 or (ids is not None and len(ids) != n):
        ended = "" if ids is None else f" and {len(ids)} barcodes"
        problem = f"{names[0]} {values.shape}, coords {corners.shape}{ended} do not belong together: (n, d), (n, 2)."
        raise InputError(path, problem, _FETCH, code="features-shape")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        problem = f"{int(bad.sum())} rows have NaN or infinity, the first is row {int(np.argmax(bad))}."
        raise InputError(path, problem, _FETCH, code="features-nan")
    obs_ids = None if ids is None else _ids(ids, path)
    return Table(path, values, corners, obs_ids, facts)


def _remedy(handle: Any) -> str:
    """Say which form a file has, where it has the other one."""
    for form, names in _ARRAYS.items():
        if all(name in handle for name in names):
            return f"it looks like `format: {form}`."
    return _FETCH


def _ids(raw: npt.NDArray[Any], path: Path) -> pd.Index:
    """Return barcodes as the samples write them."""
    barcodes = pd.Index([plain_id(v.decode() if isinstance(v, bytes) else str(v)) for v in raw], dtype=object)
    if barcodes.has_duplicates:
        problem = f"barcode '{barcodes[barcodes.duplicated()][0]}' appears more than once."
        raise InputError(path, problem, _FETCH, code="features-barcode-twice")
    return barcodes


def match(section: Section, table: Table, spec: Mapping[str, Any]) -> Int:
    """Return the row of each kept tile, -1 where there is none."""
    rows = _by_place(section, table, spec) if table.obs_ids is None else _by_id(section, table, spec)
    lost = rows < 0
    if lost.mean() > spec["max_missing"]:
        hint = (
            f"; the nearest tile lies {_median_shift(section, table):.0f} um away in the median"
            if table.obs_ids is None
            else ""
        )
        raise InputError(
            table.path,
            f"{int(lost.sum())} of {len(rows)} kept tiles of section '{section.sample}' have no feature, first "
            f"'{section.obs_id[int(np.argmax(lost))]}'{hint}; `max_missing` allows {100 * spec['max_missing']:.0f} %.",
            f"raise `max_shift_um` or `max_missing`, or {_FETCH}",
            code="features-incomplete",
        )
    return rows


def _by_id(section: Section, table: Table, spec: Mapping[str, Any]) -> Int:
    """Find rows by barcode, and check that their tiles lie on their observations and have the size asked for."""
    assert table.obs_ids is not None
    rows: Int = table.obs_ids.get_indexer(pd.Index(section.obs_id, dtype=object)).astype(np.int64)
    has = rows >= 0
    if not has.any():
        raise InputError(
            table.path,
            f"no barcode is an observation of section '{section.sample}': {', '.join(table.obs_ids[:3])}, ... against "
            f"{', '.join(map(str, section.obs_id[:3]))}, ...",
            _FETCH,
            code="features-obs",
        )
    mpp, side = float(section.facts["mpp"]), float(section.facts["size_level0_px"])
    corners, centres = table.corners[rows[has]], section.centres[has]
    # The file says nothing of its tiles' size: observations in their middles do.
    measured = 2 * float(np.median(centres - corners))
    off = np.hypot(*(corners + measured / 2 - centres).T) * mpp
    if (off > spec["max_shift_um"]).any():
        raise InputError(
            table.path,
            f"{int((off > spec['max_shift_um']).sum())} of {len(off)} tiles do not lie on their observations (up to "
            f"{off.max():.0f} um off): barcodes or coords are of another section than '{section.sample}'.",
            _FETCH,
            code="features-section",
        )
    if abs(measured / side - 1) > SAME_SCALE:
        raise InputError(
            table.path,
            f"its tiles have a side of {measured:.1f} level-0 px = {measured * mpp:.1f} um, but tile spec "
            f"{_named(spec)} asks for {side:.1f} px = {side * mpp:.1f} um.",
            "name tiles of that size, or features made from such tiles.",
            code="features-tile-size",
        )
    return rows


def _by_place(section: Section, table: Table, spec: Mapping[str, Any]) -> Int:
    """Find the tile with the nearest centre; -1 beyond ``max_shift_um``."""
    from scipy.spatial import cKDTree

    side = _check_grid(section, table, spec)
    shift, nearest = cKDTree(table.corners + side / 2).query(section.centres)
    rows: Int = np.where(shift * float(section.facts["mpp"]) <= spec["max_shift_um"], nearest, -1).astype(np.int64)
    return rows


def _check_grid(section: Section, table: Table, spec: Mapping[str, Any]) -> float:
    """Check that a grid was laid on this slide, in tiles of the size asked for; return their side in level-0 px."""
    side, px = grid_side(table)
    size = read_metadata(section.path)
    size_said = tuple(int(table.facts.get(f"level0_{name}", size[f"slide_{name}"])) for name in ("width", "height"))
    if size_said != (size["slide_width"], size["slide_height"]):
        raise InputError(
            table.path,
            f"was made on a slide of {size_said[0]} x {size_said[1]} px; that of section '{section.sample}' has "
            f"{size['slide_width']} x {size['slide_height']} px.",
            _FETCH,
            code="features-slide",
        )
    mpp, tiles = float(section.facts["mpp"]), TileSpec.from_dict(spec["tiles_spec"])
    asked = tiles.effective_um_per_px(mpp)
    if px != tiles.size_px or abs(side * mpp / px / asked - 1) > SAME_SCALE:
        raise InputError(
            table.path,
            f"its tiles are {px} px at {side * mpp / px:.4g} um/px ({side:.0f} level-0 px = {side * mpp:.1f} um), but "
            f"tile spec {_named(spec)} asks for {tiles.size_px} px at {asked:.4g} um/px.",
            f"use tiles with `size_px: {px}` and `um_per_px: {side * mpp / px:.4g}`, or features made from such tiles "
            "(TRIDENT's magnifications are nominal: 20x is not 0.5 um/px on every scanner).",
            code="features-tile-size",
        )
    return side


def grid_side(table: Table) -> tuple[float, int]:
    """Return the side of a grid's tiles in level-0 px, and in their own px."""
    facts = table.facts
    try:
        px = int(facts["patch_size"])
        if "patch_size_level0" in facts:
            return float(facts["patch_size_level0"]), px
        return px * float(facts["level0_magnification"]) / float(facts["target_magnification"]), px
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            table.path,
            f"the attributes of coords do not say how large tiles are ({error}); found: {', '.join(facts) or 'none'}.",
            "give TRIDENT's own h5 of features, which carries patch_size and patch_size_level0.",
            code="features-attributes",
        ) from error


def _median_shift(section: Section, table: Table) -> float:
    from scipy.spatial import cKDTree

    shift, _ = cKDTree(table.corners + grid_side(table)[0] / 2).query(section.centres)
    return float(np.median(shift)) * float(section.facts["mpp"])


def _named(spec: Mapping[str, Any]) -> str:
    return f"'{spec['tiles']}'" if spec.get("tiles") else "of the encoder"


def _check_one_encoder(tables: Sequence[Table], card: Mapping[str, Any]) -> None:
    for table in tables:
        dim, said = table.features.shape[1], table.facts["encoder"]
        if dim != (card["dim"] or tables[0].features.shape[1]):
            expected = card["dim"] or tables[0].features.shape[1]
            problem = f"features have {dim} numbers, card '{card['name']}' gives {expected}: of another encoder."
            raise InputError(table.path, problem, "fix `card` or `files` of the encoder.", code="features-dim")
        if said != tables[0].facts["encoder"]:
            problem = f"says encoder '{said}', {tables[0].path} says '{tables[0].facts['encoder']}'."
            raise InputError(table.path, problem, "give files of one encoder.", code="features-encoder")


def _summary(section: Section, table: Table, rows: Int, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what became of a section's observations: counts, and how far tiles lie from them."""
    has = rows >= 0
    side = grid_side(table)[0] if table.obs_ids is None else float(section.facts["size_level0_px"])
    shift = np.hypot(*(table.corners[rows[has]] + side / 2 - section.centres[has]).T) * float(section.facts["mpp"])
    return {
        "n_tiles": len(rows),
        "n_missing": int((~has).sum()),
        "n_rows": len(table.features),
        "n_rows_unused": len(table.features) - len(np.unique(rows[has])),
        "shift_um_median_max": [round(float(v), 3) for v in (np.median(shift), shift.max())],
    }


def _metadata(
    cohort: str,
    batch: str,
    sections: Sequence[Section],
    tables: Sequence[Table],
    card: Mapping[str, Any],
    spec: Mapping[str, Any],
    summaries: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    tiles_spec = TileSpec.from_dict(spec["tiles_spec"]).as_dict()
    chosen = {key: spec[key] for key in ("format", "max_shift_um", "max_missing")}
    params = {"card": card_content(card), "tiles_spec": tiles_spec, **chosen}
    inputs = {f"tiles.{s.sample}": s.identity for s in sections}
    inputs |= {f"features.{s.sample}": identity_of(t.path) for s, t in zip(sections, tables, strict=True)}
    names = [s.sample for s in sections]
    said = tables[0].facts["encoder"]
    return {
        "cohort": cohort,
        "batch": batch,
        "samples": names,
        "n_tiles": [summaries[name]["n_tiles"] - summaries[name]["n_missing"] for name in names],
        "card": card,
        # Begins with `local`: it is unknown which weights made the features.
        "revision": "local features",
        "weights_sha256": None,
        "dim": int(tables[0].features.shape[1]),
        "feature_names": None,
        "tiles_spec": tiles_spec,
        "encoder": spec["name"],
        "precomputed": {**chosen, "encoder_said": None if said is None else str(said), "sections": summaries},
        "identity": make_identity("embeddings.precomputed", {**params, "cohort": cohort, "samples": names}, inputs),
    }
