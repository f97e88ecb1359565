"""From a reader's observations and a slide to the one kind of sample that every later stage reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.artefacts import KEY, identities_of
from histoloom.errors import InputError
from histoloom.identity import canonical_json, make_identity, sha256_file
from histoloom.kinds import load
from histoloom.samples import geometry
from histoloom.samples.geometry import FloatArray
from histoloom.samples.roi import inside_roi
from histoloom.samples.tables import check_counts, check_unique, number
from histoloom.slides import BlankSlide, Slide, UInt8, open_slide

if TYPE_CHECKING:
    from anndata import AnnData

    from histoloom.samples.reader import Reader

logger = logging.getLogger(__name__)

HIRES_PX, LOWRES_PX = 2000, 600
_MIN_TISSUE, _MARGIN, _MIN_SPOTS = 0.5, 0.25, 10
MAX_OUTSIDE = 0.1
"""Share of in-tissue spots that may lie beyond the slide's edge and are dropped; more stops the section."""
_MEASURES = ("mpp", "pitch_um", "spot_diameter_um")
OPTIONAL_OBS = ("cell_area_um2", "nucleus_area_um2", "has_patch")
"""Columns of obs that are kept where a reader gives them."""
_SIZE_TOLERANCE_PX = 1
_IDENTITY_COLUMNS = ("sample", "patient", "mpp_decides", *_MEASURES, "qc_flag", "counts_layer")


def build_sample(
    source: str, cohort: str, row: Mapping[str, str], spec: Mapping[str, Any], files: Mapping[str, Path]
) -> tuple[AnnData, FloatArray]:
    """Read a section, check it against its slide and put it into the canonical form.

    Returns `section`: X int32 CSR raw counts (n, genes); obs array_row, array_col, in_tissue, n_counts, n_genes,
    optional region; obsm["spatial"] float64 (n, 2) = column, row in level-0 px; uns["spatial"] with thumbnails and
    scale factors as scanpy reads them; uns["histoloom"] = JSON metadata. `dropped_places`: (k, 2) places that had no
    counts, level-0 px, for the picture.
    """
    reader: type[Reader] = load("sources", source)
    row = {**row, **{k: v for k, v in reader.implied(row, spec).items() if not row.get(k)}}
    where = f"sheet row '{row['sample']}' of cohort '{cohort}'"
    section = reader.read(files, row, spec)
    stated: dict[str, Any] = section.uns.pop("stated", {})
    free = bool(stated.get("free"))
    on_grid, has_array = reader.on_grid and not free, reader.has_array and not free
    image = files.get("image")
    with open_slide(image) if image else BlankSlide.around(np.asarray(section.obsm["spatial"])) as slide:
        hires, lowres = slide.thumbnail(HIRES_PX), slide.thumbnail(LOWRES_PX)
        if image:
            _check_size(stated, slide, where)
        section = _check(section, slide, lowres, where, on_grid, has_array)
        if "roi" in files:
            section = _limit(section, files["roi"], slide, where, on_grid)
        facts = _measure(section, slide, row, where, on_grid, has_array, stated)
    if free:
        # Distances are taken from these numbers times the pitch.
        step = facts["pitch_um"] / facts["mpp"]
        section.obs[["array_row", "array_col"]] = np.floor(np.asarray(section.obsm["spatial"])[:, ::-1] / step)
    _complete(section)
    dropped_places = np.asarray(section.uns.pop("dropped_places", np.empty((0, 2))))
    # The ground truth is for checks: no part of the sample.
    used = identities_of({role: _parts(path) for role, path in files.items() if role != "truth"})
    params = {
        "source": source,
        "cohort": cohort,
        "row": {column: row.get(column, "") for column in _IDENTITY_COLUMNS},
        "spec": {key: spec.get(key) for key in reader.spec_keys},
    }
    metadata = {
        "cohort": cohort,
        "sample": row["sample"],
        "patient": row["patient"],
        "qc_flag": row.get("qc_flag", ""),
        "unit": stated.get("unit", reader.unit),
        **facts,
        "slide_sha256": sha256_file(image) if image else None,
        "n_obs": section.n_obs,
        "n_in_tissue": int(section.obs["in_tissue"].sum()),
        "n_zero_counts": int((section.obs["n_counts"] == 0).sum()) if section.n_vars else 0,
        "dropped": section.uns.pop("dropped"),
        "identity": make_identity("samples", params, used),
    }
    diameter, longest = facts["spot_diameter_um"] / facts["mpp"], max(slide.width, slide.height)
    scales = {
        "tissue_hires_scalef": max(hires.shape) / longest,
        "tissue_lowres_scalef": max(lowres.shape) / longest,
        "spot_diameter_fullres": diameter,
        "fiducial_diameter_fullres": diameter,
    }
    images = {"hires": hires, "lowres": lowres}
    section.uns["spatial"] = {row["sample"]: {"images": images, "scalefactors": scales, "metadata": {}}}
    section.uns[KEY] = canonical_json(metadata)
    facts_read = "%s/%s: %d observations x %d genes, %.4f um/px by %s, dropped %s, %d without counts"
    size, origin = (section.n_obs, section.n_vars), (metadata["mpp"], metadata["mpp_source"])
    logger.info(facts_read, cohort, row["sample"], *size, *origin, metadata["dropped"], metadata["n_zero_counts"])
    return section, dropped_places


def _parts(path: Path) -> Path | list[Path]:
    """Return the files of a folder (10x mtx, zarr), or the file itself."""
    path = Path(path)
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else path


def _check(section: AnnData, slide: Slide, lowres: UInt8, where: str, on_grid: bool, has_array: bool) -> AnnData:
    """Check ids, counts and places; return the section without the few spots that may lie beyond the slide's edge."""
    check_unique(section.obs_names, where, "spot")
    check_unique(section.var_names, where, "gene")
    check_counts(section.X, section.obs_names, section.var_names, where)
    if not section.obs["in_tissue"].any():
        raise InputError(where, "no spot is in tissue.", "check the in_tissue column.", code="no-spot-in-tissue")
    if on_grid:
        _check_array(section, where)
    in_tissue = section.obs["in_tissue"].to_numpy(bool)
    places = np.asarray(section.obsm["spatial"])
    outside = in_tissue & geometry.outside(places, slide.width, slide.height)
    if outside.sum() > MAX_OUTSIDE * in_tissue.sum():
        raise _outside(places[in_tissue], places[outside], section.obs_names[outside], slide, where)
    if outside.any():
        dropped = {**section.uns["dropped"], "outside_slide": int(outside.sum())}
        logger.warning("%s: %d spots lie beyond the edge of the slide and are dropped", where, int(outside.sum()))
        section = section[~outside].copy()
        section.uns["dropped"] = dropped
        in_tissue, places = in_tissue[~outside], places[~outside]
    if has_array:
        _check_on_tissue(places[in_tissue], slide, lowres, where)
    return section


def _limit(section: AnnData, roi: Path, slide: Slide, where: str, on_grid: bool) -> AnnData:
    """Return the observations in the region of interest; pitch and um/px still come from the whole array."""
    if on_grid and "array" not in section.uns:
        section.uns["array"] = np.hstack([section.obs[["array_row", "array_col"]], section.obsm["spatial"]])
    inside = inside_roi(roi, np.asarray(section.obsm["spatial"]), slide, where)
    section.uns["dropped"] = {**section.uns["dropped"], "outside_roi": int((~inside).sum())}
    if not section.obs["in_tissue"].to_numpy(bool)[inside].any():
        problem = f"none of the {int(inside.sum())} spots in the region of interest is in tissue."
        raise InputError(where, problem, f"draw it around tissue; read was {roi}.", code="roi-empty")
    return section[inside].copy()


def _check_array(section: AnnData, where: str) -> None:
    columns = [section.obs[name] for name in ("array_row", "array_col")]
    twice = pd.MultiIndex.from_arrays(columns).duplicated(keep=False)
    if twice.any():
        first, second = section.obs_names[twice][:2]
        problem = f"{int(twice.sum())} spots share array positions, first '{first}' and '{second}': several sections."
        remedy = "give each section its own files, or name one in 'library_id' where an h5ad holds several."
        raise InputError(where, problem, remedy, code="array-position-twice")


def _outside(places: FloatArray, beyond: FloatArray, names: pd.Index, slide: Slide, where: str) -> InputError:
    """Return the error about too many spots that lie beyond the slide, of all in tissue."""
    swapped = geometry.outside(places[:, ::-1], slide.width, slide.height).mean() <= MAX_OUTSIDE
    hint = " With x and y exchanged they would lie inside: they look swapped." if swapped else ""
    size = f"{slide.width} x {slide.height} px (up to {100 * MAX_OUTSIDE:.0f} % are dropped)"
    example = f"first '{names[0]}' at x={beyond[0, 0]:.0f}, y={beyond[0, 1]:.0f}"
    spots = f"{len(beyond)} of {len(places)} spots"
    problem = f"{spots} lie outside the image {slide.path} of {size}, {example}.{hint}"
    remedy = (
        "give pixel_x as the column and pixel_y as the row in the full-resolution image, check that the image is the "
        "one the positions were made on, or set in_tissue to 0 for these spots."
    )
    return InputError(where, problem, remedy, code="spots-outside")


def _check_on_tissue(places: FloatArray, slide: Slide, lowres: UInt8, where: str) -> None:
    mask, scale = geometry.tissue_mask(lowres), max(lowres.shape) / max(slide.width, slide.height)
    share = geometry.tissue_share(places, mask, scale)
    other = geometry.tissue_share(places[:, ::-1], mask, scale)
    logger.info("%.2f of the spots lie on tissue, %.2f with x and y exchanged", share, other)
    if share < _MIN_TISSUE <= other and other - share > _MARGIN:
        shares = f"{100 * share:.0f} % of the spots lie on tissue, {100 * other:.0f} % would with x and y exchanged"
        problem = f"x and y look swapped: {shares} ({slide.path})."
        remedy = "give pixel_x as the column and pixel_y as the row in the full-resolution image."
        raise InputError(where, problem, remedy, code="spots-swapped")
    if mask.any() and share == 0 and len(places) >= _MIN_SPOTS:
        problem = f"none of {len(places)} spots lies on tissue of {slide.path}."
        remedy = "check that the image is the one the positions were made on, and that it is an H&E in colour."
        raise InputError(where, problem, remedy, code="spots-off-tissue")


def _check_size(stated: Mapping[str, Any], slide: Slide, where: str) -> None:
    if "slide_size" not in stated:
        return
    width, height = stated["slide_size"]
    tolerance = stated.get("slide_size_tolerance", _SIZE_TOLERANCE_PX)
    if abs(slide.width - width) > tolerance or abs(slide.height - height) > tolerance:
        size = f"{slide.width} x {slide.height} px, the positions were made on {width:.0f} x {height:.0f} px"
        remedy = "give the full-resolution image that the positions belong to."
        raise InputError(where, f"the image {slide.path} has {size}.", remedy, code="slide-size")


def _measure(
    section: AnnData, slide: Slide, row: Mapping[str, str], where: str, on_grid: bool, has_array: bool,
    stated: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Decide um/px, pitch and spot diameter."""
    given = {column: cell_number(row, column, where) for column in _MEASURES}
    for column in ("pitch_um", "spot_diameter_um"):
        given[column] = given[column] or stated.get(column)
    pitch = None
    if on_grid:
        array = section.uns.pop("array", None)
        if array is None:
            array = np.hstack([section.obs[["array_row", "array_col"]].to_numpy(), section.obsm["spatial"]])
        pitch = geometry.estimate_pitch(array[:, :2], array[:, 2:])
        geometry.check_pitch(pitch, where)
    pitch_um = given["pitch_um"]
    by_files = stated.get("mpp", {})
    mpp, mpp_source = geometry.decide_mpp(
        sheet=given["mpp"],
        pitch=pitch_um / pitch.px if has_array and pitch_um and pitch else None,
        embedded=slide.mpp,
        sheet_decides=row.get("mpp_decides", "") == "yes",
        where=where,
        alignment=by_files.get("alignment"),
        estimated=by_files.get("estimated"),
    )
    if not pitch_um and not pitch:
        raise InputError(where, "the array's pitch is unknown.", "fill 'pitch_um'.", code="pitch-unknown")
    if not given["spot_diameter_um"]:
        problem = "'spot_diameter_um' is empty."
        raise InputError(where, problem, "fill it (100 for ST arrays, 55 for Visium).", code="spot-diameter-unknown")
    return {
        "mpp": mpp,
        "mpp_source": mpp_source,
        "pitch_um": pitch_um if pitch_um else pitch.px * mpp if pitch else None,
        "pitch_px": pitch.px if pitch else pitch_um / mpp if pitch_um else None,
        "array_residual": pitch.residual if pitch else None,
        "spot_diameter_um": given["spot_diameter_um"],
        "slide_width": slide.width,
        "slide_height": slide.height,
        "slide_mpp": slide.mpp,
        **({"slide_bounds": list(slide.bounds)} if slide.bounds != (0, 0) else {}),
        **({"source_facts": stated["facts"]} if stated.get("facts") else {}),
    }


def cell_number(row: Mapping[str, str], column: str, where: str) -> float | None:
    """Return a sheet cell as a positive number, None where it is empty."""
    text = row.get(column, "").strip()
    value = number(text)
    if text and value is None:
        problem = f"column '{column}' holds '{text}', no positive number."
        raise InputError(where, problem, "correct it, or leave it empty.", code="sheet-number")
    return value


def _complete(section: AnnData) -> None:
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(section.X, dtype=np.int32)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    section.X = matrix
    columns = ["array_row", "array_col", "in_tissue"]
    obs = section.obs[columns].astype({"array_row": np.int64, "array_col": np.int64, "in_tissue": bool})
    obs["n_counts"] = np.asarray(matrix.sum(axis=1)).ravel().astype(np.int64)
    obs["n_genes"] = np.diff(matrix.indptr).astype(np.int64)
    if "region" in section.obs:
        obs["region"] = section.obs["region"].astype(str).to_numpy(dtype=object)
    for column in OPTIONAL_OBS:
        if column in section.obs:
            obs[column] = section.obs[column]
    section.obs = obs
