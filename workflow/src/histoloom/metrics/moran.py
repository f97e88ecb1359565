"""Bivariate Moran's R between all pairs of cell types as one matrix product, and how alike two such maps are.

``R = sum_ij w_ij z_i(x) z_j(y) / n`` with population z-scores and weights scaled to ``sum(w) = n``; the definition of
"Integrating Pathology Foundation Models and Spatial Transcriptomics for Cellular Decomposition from Histology Images",
section 3.2. With Z (n, types) this is ``Z' W Z / n``. Distances are taken on array coordinates times the pitch, not on
estimated pixels; weights below a cutoff are dropped; W is block-diagonal over sections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError
from histoloom.obs_keys import section_keys
from histoloom.stats import Floats

LENGTH_SCALE_UM = 240.0
CUTOFF = 0.2
ARRAY, HIST2CELL = "array", "hist2cell_500px"
_BLOCK = 1000
_RELATIVE_NOISE = 1e-12
FORMS = ("diag1_row", "diag1_flat", "nodiag_row", "nodiag_flat")
"""Map similarity: diagonal set to 1 or left out; row by row (mean over rows) or all entries at once."""


def weight_block(array: Floats, pitch_um: float, length_scale_um: float, cutoff: float, *, include_self: bool) -> Any:
    """Return one section's unscaled weights.

    Parameters
    ----------
    array
        (n, 2) array row and column.
    pitch_um
        Distance of neighbouring rows and columns, um.
    length_scale_um
        l of ``exp(-d^2 / 2 l^2)``, um.
    cutoff
        Weights below are zero; must be above 0, or every pair would be stored.
    include_self
        Whether the diagonal (weight 1) is kept.

    Returns
    -------
    scipy.sparse.csr_array
        (n, n), symmetric.

    Raises
    ------
    InputError
        If array coordinates or pitch are not finite, or the cutoff is not between 0 and 1.
    """
    from scipy.sparse import coo_array
    from scipy.spatial import cKDTree

    if not 0 < cutoff < 1:
        raise InputError("moran.cutoff", f"is {cutoff}; expected between 0 and 1.", "use 0.2.")
    if not (np.isfinite(array).all() and np.isfinite(pitch_um) and pitch_um > 0):
        raise InputError(
            "moran",
            "array coordinates or pitch_um are not known.",
            "give pitch_um in the cohort's sheet and array coordinates in the positions.",
        )
    points = np.asarray(array, dtype=np.float64) * pitch_um
    # A ring of neighbours exactly on the cutoff belongs to it, whatever the rounding.
    radius = length_scale_um * np.sqrt(-2.0 * np.log(cutoff)) * (1 + 1e-9)
    pairs = cKDTree(points).query_pairs(radius, output_type="ndarray")
    distance2 = ((points[pairs[:, 0]] - points[pairs[:, 1]]) ** 2).sum(axis=1)
    weight = np.exp(-distance2 / (2.0 * length_scale_um**2))
    own = np.arange(len(points) if include_self else 0)
    rows = np.concatenate([pairs[:, 0], pairs[:, 1], own])
    columns = np.concatenate([pairs[:, 1], pairs[:, 0], own])
    values = np.concatenate([weight, weight, np.ones(len(own))])
    return coo_array((values, (rows, columns)), shape=(len(points), len(points))).tocsr()


def spatial_weights(
    array: Floats,
    pitch_um: Floats,
    section: npt.NDArray[Any],
    *,
    length_scale_um: float = LENGTH_SCALE_UM,
    cutoff: float = CUTOFF,
    include_self: bool = True,
) -> Any:
    """Return block-diagonal weights over sections, scaled so that they sum to n.

    Parameters
    ----------
    array
        (n, 2) array row and column.
    pitch_um
        (n,) pitch, um.
    section
        (n,) which section an observation lies in; observations of different sections have no weight.
    length_scale_um, cutoff, include_self
        See `weight_block`.

    Returns
    -------
    scipy.sparse.csr_array
        (n, n) in the order of the observations.
    """
    from scipy.sparse import block_diag

    names = np.unique(section)
    order = [np.flatnonzero(section == name) for name in names]
    blocks = [
        weight_block(array[index], float(pitch_um[index[0]]), length_scale_um, cutoff, include_self=include_self)
        for index in order
    ]
    stacked = block_diag(blocks, format="csr")
    position = np.argsort(np.concatenate(order), kind="stable")
    weights = stacked[position][:, position]
    total = weights.sum()
    return weights * (len(section) / total) if total > 0 else weights


def protocol_weights(obs: pd.DataFrame, moran: Mapping[str, Any]) -> Any:
    """Return the weights of a named protocol.

    Parameters
    ----------
    obs
        cohort, sample and array_row, array_col, pitch_um (protocol ``array``) or x, y in level-0 px.
    moran
        ``protocol``: ``array`` (default; with length_scale_um, cutoff, include_self) or ``hist2cell_500px``: distances
        and a length scale of 500 in px of the slide, whatever its um/px, cutoff 0.2, self included, at most the 160
        strongest neighbours; kept when either side lists the other, so that W is symmetric (SpatialDM's is directed).
    """
    section = section_keys(obs).to_numpy()
    if moran.get("protocol", ARRAY) == ARRAY:
        return spatial_weights(
            obs[["array_row", "array_col"]].to_numpy(dtype=np.float64),
            obs["pitch_um"].to_numpy(dtype=np.float64),
            section,
            **{key: moran[key] for key in ("length_scale_um", "cutoff", "include_self") if key in moran},
        )
    if moran["protocol"] != HIST2CELL:
        raise InputError("moran.protocol", f"'{moran['protocol']}' is not known.", f"use {ARRAY} or {HIST2CELL}.")
    places = obs[["x", "y"]].to_numpy(dtype=np.float64)
    weights = spatial_weights(
        places, np.ones(len(places)), section, length_scale_um=500.0, cutoff=0.2, include_self=True
    )
    return _capped(weights, 160)


def _capped(weights: Any, most: int) -> Any:
    """Keep at most the strongest entries of each row, then the union with the transpose, scaled to n."""
    if int(np.diff(weights.indptr).max(initial=0)) <= most:
        return weights
    rows = weights.tolil()
    for i, (columns, values) in enumerate(zip(rows.rows, rows.data, strict=True)):
        if len(values) > most:
            kept = np.sort(np.argsort(-np.asarray(values), kind="stable")[:most])
            rows.rows[i] = [columns[k] for k in kept]
            rows.data[i] = [values[k] for k in kept]
    cut = rows.tocsr()
    cut = cut.maximum(cut.T).tocsr()
    return cut * (cut.shape[0] / cut.sum())


def weight_diagnostics(weights: Any) -> dict[str, float]:
    """Return what a reader must know of W: mean number of other observations with a weight, and self's share of all.

    Returns
    -------
    dict
        ``w_neighbours``, ``w_self_share`` (the in-spot part of R: 1 would make R a plain correlation).
    """
    own = weights.diagonal()
    total = float(weights.sum())
    others = np.diff(weights.indptr) - (own != 0)
    return {
        "w_neighbours": float(others.mean()) if len(others) else float("nan"),
        "w_self_share": float(own.sum()) / total if total > 0 else float("nan"),
    }


def morans_r(values: Floats, weights: Any) -> Floats:
    """Return bivariate Moran's R of all pairs of columns.

    Parameters
    ----------
    values
        (n, types), without NaN.
    weights
        (n, n), dense or sparse, summing to n.

    Returns
    -------
    ndarray
        (types, types); rows and columns of constant types are NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    mean = values.mean(axis=0)
    centred = values - mean
    scale = np.sqrt(np.einsum("ij,ij->j", centred, centred))
    # A column that varies by rounding only is constant; NaN compares false and is undefined too.
    defined = scale > _RELATIVE_NOISE * np.sqrt(len(values)) * np.abs(mean)
    scale = np.where(defined, scale, np.nan)
    product = np.zeros((values.shape[1], values.shape[1]))
    # Rows in blocks: a block of W Z stays in the cache, where the whole of it costs more to allocate than to compute.
    for start in range(0, len(values), _BLOCK):
        rows = slice(start, start + _BLOCK)
        product += centred[rows].T @ (weights[rows] @ centred)
    # Dividing the small result by the scales is cheaper than forming z-scores of every observation.
    return product / np.outer(scale, scale)


def _cosine(a: Floats, b: Floats) -> Floats:
    norm = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.divide((a * b).sum(axis=-1), norm, out=np.full(norm.shape, np.nan), where=norm > 0)


def map_similarity(first: Floats, second: Floats) -> tuple[dict[tuple[str, str], float], int, int]:
    """Compare two colocalization maps in four forms, by cosine and by Pearson correlation.

    Parameters
    ----------
    first, second
        (types, types) maps of R. A type undefined in either is left out of both.

    Returns
    -------
    similarity
        By (``"coloc_cosine"`` or ``"coloc_correlation"``, form of `FORMS`). NaN with fewer than three types.
    n
        Types compared.
    n_nan
        Types left out.
    """
    # A type is undefined when its own R is: its whole row and column are NaN then.
    keep = np.isfinite(np.diagonal(first)) & np.isfinite(np.diagonal(second))
    n = int(keep.sum())
    similarity: dict[tuple[str, str], float] = {}
    maps = [matrix[np.ix_(keep, keep)] for matrix in (first, second)]
    off = ~np.eye(n, dtype=bool)
    for form in FORMS:
        if n < 3:
            a = b = np.full((1, 2), np.nan)
        elif form.startswith("diag1"):
            a, b = (np.where(off, matrix, 1.0) for matrix in maps)
        else:
            a, b = (matrix[off].reshape(n, n - 1) for matrix in maps)
        if form.endswith("flat"):
            a, b = a.reshape(1, -1), b.reshape(1, -1)
        similarity["coloc_cosine", form] = _mean(_cosine(a, b))
        centred = (matrix - matrix.mean(axis=-1, keepdims=True) for matrix in (a, b))
        similarity["coloc_correlation", form] = _mean(_cosine(*centred))
    return similarity, n, len(keep) - n


def _mean(values: Floats) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def upper_pairs(types: Sequence[str]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], tuple[Any, Any]]:
    """Return target, target2 and index of the pairs i <= j: R is symmetric, as the weights are."""
    index = np.triu_indices(len(types))
    names = np.asarray(types, dtype=object)
    return names[index[0]], names[index[1]], index
