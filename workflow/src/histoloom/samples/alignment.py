"""Where a Xenium run lies on its H&E: the alignment csv, in both forms.

A 3 x 3 matrix without header maps H&E level-0 px to px of the morphology image, (x, y, 1) to (x, y, 1). Explorer's
keypoint files (columns fixedX, fixedY, alignmentX, alignmentY) pair points of both images, alignment = H&E, fixed =
morphology; at least three give the matrix by least squares. Cells go the other way: inverse(M)
[x_um / 0.2125, y_um / 0.2125, 1].
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError
from histoloom.text_tables import read_text

FloatArray = npt.NDArray[np.float64]

KEYPOINTS = ("fixedX", "fixedY", "alignmentX", "alignmentY")
_REMEDY = "export the alignment of the H&E image from Xenium Explorer again."
_MIN_POINTS = 3
_MAX_SHEAR = 0.1


def read_alignment(path: Path) -> FloatArray:
    """Read an alignment.

    Returns (3, 3), H&E px -> morphology px, homogeneous; invertible.
    """
    text = read_text(path)
    matrix = _from_keypoints(text, path) if "fixedX" in text.partition("\n")[0] else _from_numbers(text, path)
    if not np.isfinite(matrix).all() or not np.allclose(matrix[2], [0, 0, 1]):
        problem = f"the last row is {matrix[2].tolist()}, 0, 0, 1 expected: no affine matrix."
        raise InputError(path, problem, _REMEDY, code="alignment-not-affine")
    stretch = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if stretch[1] <= 1e-9 * max(stretch[0], 1e-300) or stretch[1] == 0:
        problem = "the matrix is singular: it puts the whole slide on one line."
        raise InputError(path, problem, _REMEDY, code="alignment-singular")
    if stretch[0] / stretch[1] > 1 + _MAX_SHEAR:
        problem = f"it stretches one direction {stretch[0] / stretch[1]:.2f} times as much as the other."
        raise InputError(path, problem, _REMEDY, code="alignment-stretch")
    return matrix


def _from_numbers(text: str, path: Path) -> FloatArray:
    try:
        matrix = np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2)
    except ValueError as error:
        problem = f"neither a matrix nor keypoints ({error})."
        raise InputError(path, problem, _REMEDY, code="alignment-format") from error
    if matrix.shape != (3, 3):
        problem = f"{matrix.shape[0]} x {matrix.shape[1]} numbers, 3 x 3 expected."
        raise InputError(path, problem, _REMEDY, code="alignment-shape")
    return matrix


def _from_keypoints(text: str, path: Path) -> FloatArray:
    table = pd.read_csv(io.StringIO(text), skipinitialspace=True)
    missing = [column for column in KEYPOINTS if column not in table]
    if missing:
        raise InputError(path, f"no column {', '.join(missing)}.", _REMEDY, code="keypoint-columns")
    points = table[list(KEYPOINTS)].apply(pd.to_numeric, errors="coerce")
    if points.isna().to_numpy().any():
        raise InputError(path, "a keypoint is no number.", _REMEDY, code="keypoint-numbers")
    source = np.column_stack([points[["alignmentX", "alignmentY"]], np.ones(len(points))])
    spread = source - source.mean(axis=0) * [1, 1, 0]
    if len(points) < _MIN_POINTS or np.linalg.matrix_rank(spread, tol=1e-6 * np.abs(spread).max()) < _MIN_POINTS:
        problem = f"{len(points)} keypoints: three that do not lie in one line are needed at least."
        raise InputError(path, problem, _REMEDY, code="keypoints-too-few")
    fit, *_ = np.linalg.lstsq(source, points[["fixedX", "fixedY"]].to_numpy(np.float64), rcond=None)
    return np.vstack([fit.T, [0.0, 0.0, 1.0]])


def to_slide(places_um: FloatArray, matrix: FloatArray, pixel_size_um: float) -> FloatArray:
    """Map places of the Xenium run to the slide.

    `places_um`: (n, 2), x and y in um; `matrix`: as `read_alignment` returns; `pixel_size_um`: um per pixel of the
    morphology image. Returns (n, 2), column and row, level-0 px of the H&E.
    """
    inverse = np.linalg.inv(matrix)
    return places_um / pixel_size_um @ inverse[:2, :2].T + inverse[:2, 2]


def slide_mpp(matrix: FloatArray, pixel_size_um: float) -> float:
    """Return um/px of the H&E: the geometric mean over both directions."""
    return float(pixel_size_um * np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
