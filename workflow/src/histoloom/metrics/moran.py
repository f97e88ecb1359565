"""Bivariate Moran's R between all pairs of cell types as one matrix product, and how alike two such maps are.

``R = sum_ij w_ij z_i(x) z_j(y) / n`` with population z-scores and weights scaled to ``sum(w) = n``; the definition of
"Integrating Pathology Foundation Models and Spatial Transcriptomics for Cellular Decomposition from Histology Images",
section 3.2. With Z (n, types) this is ``Z' W Z / n``. Distances are those of the array's own lattice
(`histoloom.lattice`), not of estimated pixels; weights below a cutoff are dropped; W is block-diagonal over sections.

What is more than chance is asked by permutations within sections, in two schemes. ``random`` gives every spot the other
type of any spot of its section: right when at least one of the two types has no spatial structure of its own.
Abundances do, and then it finds too much: two independent smooth maps look colocalized somewhere. ``toroidal`` keeps
each map as it is and slides one over the other, with wrap-around on the array (Lotwick and Silverman 1982,
doi:10.1111/j.2517-6161.1982.tb01221.x).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError
from histoloom.lattice import HEXAGONAL, SQUARE, cells_of, neighbours, positions_um
from histoloom.metrics.block_weights import ENTRY_BYTES, BlockWeights
from histoloom.obs_keys import section_keys
from histoloom.stats import Floats, mean_defined, standardise_columns

if TYPE_CHECKING:
    from scipy.sparse import csr_array

logger = logging.getLogger(__name__)

LENGTH_SCALE_UM, CELL_LENGTH_SCALE_UM = 240.0, 30.0
"""Defaults for arrays of spots, and where the pitch is below `FINE_UM`: cells, and bins of their size."""
FINE_UM = 30.0
CUTOFF = 0.2
ARRAY, HIST2CELL = "array", "hist2cell_500px"
MOST_WEIGHTS = 50_000_000
"""Entries of W that are stored, 0.8 GB; more are formed block by block."""
_CERTAINLY_SMALL = 7_000
_BLOCK = 1000
_RELATIVE_NOISE = 1e-12
FORMS = ("diag1_row", "diag1_flat", "nodiag_row", "nodiag_flat")
"""Map similarity: diagonal set to 1 or left out; row by row (mean over rows) or all entries at once."""


def _check(positions: Floats, cutoff: float) -> None:
    if not 0 < cutoff < 1:
        raise InputError("moran.cutoff", f"is {cutoff}; expected between 0 and 1.", "use 0.2.", code="moran-cutoff")
    if not np.isfinite(positions).all():
        problem = "array coordinates or pitch_um are not known."
        remedy = "give pitch_um in the cohort's sheet and array coordinates in the positions."
        raise InputError("moran", problem, remedy, code="moran-positions")


def weight_block(positions: Floats, length_scale_um: float, cutoff: float, *, include_self: bool) -> csr_array:
    """Return one section's unscaled weights ``exp(-d^2 / 2 l^2)`` of positions (n, 2) in um: (n, n), symmetric.

    Weights below the cutoff are zero; it must be above 0, or every pair would be stored. A ring exactly on the cutoff
    belongs to it, whatever the rounding. `include_self` keeps the diagonal (weight 1).
    """
    _check(positions, cutoff)

    def weight(distance2: Floats) -> Floats:
        return np.asarray(np.exp(-distance2 / (2.0 * length_scale_um**2)))

    radius = length_scale_um * np.sqrt(-2.0 * np.log(cutoff))
    return neighbours(positions, radius, include_self=include_self, weight=weight)


def spatial_weights(
    positions: Floats,
    section: npt.NDArray[Any],
    *,
    length_scale_um: float | Mapping[Any, float] = LENGTH_SCALE_UM,
    cutoff: float = CUTOFF,
    include_self: bool = True,
) -> csr_array | BlockWeights:
    """Return weights (n, n) of positions in um, block-diagonal over `section` (n,), scaled so that they sum to n.

    `length_scale_um` may be one per section. Above `MOST_WEIGHTS` entries they are formed by blocks of rows.
    """
    from scipy.sparse import block_diag

    _check(positions, cutoff)
    names, codes = np.unique(section, return_inverse=True)
    given = length_scale_um
    scales = np.array([given[name] if isinstance(given, Mapping) else given for name in names], dtype=np.float64)
    if len(positions) > _CERTAINLY_SMALL:
        by_blocks = BlockWeights(positions, codes, scales, cutoff, include_self)
        count = int(by_blocks.counts.sum())
        text = "Moran's W: %d observations, %.0f neighbours each, %.1f GB if stored%s"
        how = ": formed by blocks" if count > MOST_WEIGHTS else ""
        logger.info(text, len(positions), count / len(positions), count * ENTRY_BYTES / 1e9, how)
        if count > MOST_WEIGHTS:
            return by_blocks
    order = [np.flatnonzero(codes == code) for code in range(len(names))]
    blocks = [
        weight_block(positions[index], float(scale), cutoff, include_self=include_self)
        for index, scale in zip(order, scales, strict=True)
    ]
    stacked = block_diag(blocks, format="csr")
    position = np.argsort(np.concatenate(order), kind="stable")
    weights = stacked[position][:, position]
    total = weights.sum()
    return weights * (len(section) / total) if total > 0 else weights


def section_positions(obs: pd.DataFrame, section: npt.NDArray[Any]) -> Floats:
    """Return (n, 2) positions in um, each section on its own lattice and with its own pitch."""
    positions = np.empty((len(obs), 2))
    for name in np.unique(section):
        index = np.flatnonzero(section == name)
        part = obs.iloc[index]
        kind = str(part["lattice"].iloc[0]) if "lattice" in part else None
        positions[index] = positions_um(part["array_row"], part["array_col"], float(part["pitch_um"].iloc[0]), kind)
    return positions


def default_length_scales(obs: pd.DataFrame, section: npt.NDArray[Any]) -> dict[Any, float]:
    """Return each section's default length scale by its pitch, um."""
    pitch = obs["pitch_um"].astype(float).groupby(section).first()
    return {name: CELL_LENGTH_SCALE_UM if um < FINE_UM else LENGTH_SCALE_UM for name, um in pitch.items()}


def protocol_weights(obs: pd.DataFrame, moran: Mapping[str, Any]) -> csr_array | BlockWeights:
    """Return the weights of a named protocol.

    `obs` has cohort, sample and array_row, array_col, pitch_um, lattice (protocol ``array``, the default; options
    length_scale_um, None for that of the section's pitch, cutoff, include_self) or x, y in level-0 px
    (``hist2cell_500px``: distances and a length scale of 500 in px of the slide, whatever its um/px, cutoff 0.2, self
    included, at most the 160 strongest neighbours; kept when either side lists the other, so that W is symmetric;
    SpatialDM's is directed).
    """
    section = section_keys(obs).to_numpy()
    if moran.get("protocol", ARRAY) == ARRAY:
        options = {key: moran[key] for key in ("cutoff", "include_self") if key in moran}
        options["length_scale_um"] = moran.get("length_scale_um") or default_length_scales(obs, section)
        return spatial_weights(section_positions(obs, section), section, **options)
    if moran["protocol"] != HIST2CELL:
        problem = f"'{moran['protocol']}' is not known."
        raise InputError("moran.protocol", problem, f"use {ARRAY} or {HIST2CELL}.", code="moran-protocol")
    places = obs[["x", "y"]].to_numpy(dtype=np.float64)
    return _capped(spatial_weights(places, section, length_scale_um=500.0, cutoff=0.2, include_self=True), 160)


def _capped(weights: Any, most: int) -> Any:
    """Keep at most the strongest entries of each row, then the union with the transpose, scaled to n."""
    if isinstance(weights, BlockWeights):
        problem = "500 px hold too many neighbours of each observation on this slide."
        raise InputError("moran.protocol", problem, "use protocol array.", code="moran-too-dense")
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
    """Return ``w_neighbours``, the mean number of other observations with a weight, and ``w_self_share`` of all weight.

    The second is the in-spot part of R: 1 would make R a plain correlation.
    """
    own = weights.diagonal()
    total = float(weights.sum())
    others = weights.counts - 1 if isinstance(weights, BlockWeights) else np.diff(weights.indptr) - (own != 0)
    share = float(own.sum()) / total if total > 0 else float("nan")
    return {"w_neighbours": float(others.mean()) if len(others) else float("nan"), "w_self_share": share}


def morans_r(values: Floats, weights: Any) -> Floats:
    """Return bivariate Moran's R (types, types) of all pairs of columns of values (n, types) without NaN.

    `weights` (n, n), dense or sparse, sum to n. Rows and columns of constant types are NaN.
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
    if isinstance(weights, BlockWeights):
        product = centred.T @ (weights @ centred)
    else:
        for start in range(0, len(values), _BLOCK):
            rows = slice(start, start + _BLOCK)
            product += centred[rows].T @ (weights[rows] @ centred)
    # Dividing the small result by the scales is cheaper than forming z-scores of every observation.
    return product / np.outer(scale, scale)


def _cosine(prediction: Floats, reference: Floats) -> Floats:
    """Return the cosine of each row; NaN where the reference is zero, 0 where the prediction alone is."""
    square = (reference**2).sum(axis=-1)
    norm = np.sqrt((prediction**2).sum(axis=-1) * square)
    cosine = np.divide((prediction * reference).sum(axis=-1), norm, out=np.zeros(norm.shape), where=norm > 0)
    return np.where(square > 0, cosine, np.nan)


def map_similarity(prediction: Floats, reference: Floats) -> tuple[dict[tuple[str, str], float], int, int]:
    """Compare two colocalization maps (types, types) in four forms, by cosine and by Pearson correlation.

    Returns the similarity by (``coloc_cosine`` or ``coloc_correlation``, form of `FORMS`), NaN with fewer than three
    types; the number of types compared; the number left out, because they are undefined in the reference. A type that
    is undefined in the prediction alone is colocalized with nothing there, itself included.
    """
    # A type is undefined when its own R is: its whole row and column are NaN then.
    keep = np.isfinite(np.diagonal(reference))
    n = int(keep.sum())
    similarity: dict[tuple[str, str], float] = {}
    own = np.isfinite(np.diagonal(prediction))[keep].astype(float)
    maps = [np.nan_to_num(matrix[np.ix_(keep, keep)]) for matrix in (prediction, reference)]
    off = ~np.eye(n, dtype=bool)
    for form in FORMS:
        if n < 3:
            a = b = np.full((1, 2), np.nan)
        elif form.startswith("diag1"):
            a, b = np.where(off, maps[0], np.diag(own)), np.where(off, maps[1], 1.0)
        else:
            a, b = (matrix[off].reshape(n, n - 1) for matrix in maps)
        if form.endswith("flat"):
            a, b = a.reshape(1, -1), b.reshape(1, -1)
        similarity["coloc_cosine", form] = float(mean_defined(_cosine(a, b)))
        centred = (matrix - matrix.mean(axis=-1, keepdims=True) for matrix in (a, b))
        similarity["coloc_correlation", form] = float(mean_defined(_cosine(*centred)))
    return similarity, n, len(keep) - n


SCHEMES = ("toroidal", "random")


def grid_shifts(
    array: Floats, rng: np.random.Generator, count: int, *, least: int, lattice: str = SQUARE
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return random slides of an array (n, 2: row, column) over itself, with wrap-around.

    `least`: a slide moves at least this many steps along an axis, or it would compare a map with itself. On a hexagonal
    lattice it moves by an even number of rows, which maps spots onto spots. Returns source (count, n): which
    observation's value lands on each, -1 where the array has a gap; and the steps (count, 2).
    """
    cells = cells_of(array[:, 0], array[:, 1], lattice)
    low = cells.min(axis=0)
    step = 2 if lattice == HEXAGONAL else 1
    size = cells.max(axis=0) - low + 1
    size[0] += size[0] % step  # a row of the other parity follows the last one
    table = np.full(size, -1, dtype=np.int64)
    table[tuple((cells - low).T)] = np.arange(len(cells))
    rows, columns = np.meshgrid(np.arange(0, size[0], step), np.arange(size[1]), indexing="ij")
    far = np.maximum(np.minimum(rows, size[0] - rows), np.minimum(columns, size[1] - columns)) >= least
    if not far.any():
        problem = "the array is too small to be slid over itself."
        raise InputError("permutations", problem, "use `scheme: random`.", code="permutations-small-array")
    steps = np.column_stack([rows[far], columns[far]])
    chosen = steps[rng.integers(len(steps), size=count)]
    source = np.stack([table[tuple(((cells - low + move) % size).T)] for move in chosen])
    return source, chosen


def null_maps(
    values: Floats,
    weights: Any,
    array: Floats,
    *,
    scheme: str,
    count: int,
    seed: int,
    least: int = 3,
    lattice: str = SQUARE,
) -> Floats:
    """Return Moran's R (count, types, types) under permutation of the second type within one section.

    `values` (n, types), `weights` (n, n) summing to n, `array` (n, 2) row and column. With gaps in the array the
    overlap is smaller than the section; R is then formed over the weights between observations that got a value, with
    z-scores of the values that landed.
    """
    if scheme not in SCHEMES:
        problem = f"'{scheme}' is no scheme."
        raise InputError("permutations", problem, f"use one of: {', '.join(SCHEMES)}.", code="permutations-scheme")
    rng = np.random.default_rng([seed, len(values)])
    z = standardise_columns(values)
    smoothed = np.asarray(weights.T @ z)  # R = z' W z_permuted / n = (W' z)' z_permuted / n
    null = np.full((count, z.shape[1], z.shape[1]), np.nan)
    if scheme == "random":
        for b in range(count):
            null[b] = smoothed.T @ z[rng.permutation(len(z))] / len(z)
        return null
    if isinstance(weights, BlockWeights):
        problem = "slides of a map over itself need the stored weights, too many here."
        remedy = "use `scheme: random` or a shorter `moran.length_scale_um`."
        raise InputError("permutations", problem, remedy, code="moran-too-dense")
    source, _ = grid_shifts(array, rng, count, least=least, lattice=lattice)
    for b in range(count):
        landed = np.flatnonzero(source[b] >= 0)
        if len(landed) < 3:
            continue
        # Both maps are centred where they overlap: a slide shows parts of them, whose means differ from the wholes'.
        x, y = standardise_columns(values[landed]), standardise_columns(values[source[b][landed]])
        part = weights[landed][:, landed]
        total = part.sum()
        null[b] = x.T @ (part @ y) / total if total > 0 else np.nan
    return null


def permutation_p(observed: Floats, null: Floats) -> Floats:
    """Return two-sided p values, ``(1 + #{|null - centre| >= |observed - centre|}) / (1 + count)``.

    `observed` (types, types), `null` (count, types, types) with its mean as centre. The result is symmetric: the null
    of (i, j) and of (j, i) are both draws for the pair and are used together. NaN where the observed value is.
    """
    both = np.concatenate([null, np.swapaxes(null, 1, 2)])
    defined = np.isfinite(both)
    count = defined.sum(axis=0)
    centre = np.where(defined, both, 0.0).sum(axis=0) / np.maximum(count, 1)
    extreme = (np.abs(both - centre) >= np.abs(observed - centre) * (1 - 1e-12)) & defined
    # Slides back and forth are not independent draws: half the number is what they are worth.
    p = (1.0 + extreme.sum(axis=0) / 2.0) / (1.0 + count / 2.0)
    defined_p: Floats = np.where(np.isfinite(observed) & (count > 0), p, np.nan)
    return defined_p
