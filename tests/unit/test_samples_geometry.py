"""Pitch and um per pixel: known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.samples.geometry import decide_mpp, estimate_pitch, tissue_mask, tissue_share


def square(n: int = 12, m: int = 7) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(n), np.arange(m), indexing="ij"), -1).reshape(-1, 2).astype(float)


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return points @ np.array([[c, s], [-s, c]])


@pytest.mark.parametrize("degrees", [0, 3, 45, 90, 181])
@pytest.mark.parametrize("flip", [False, True])
def test_pitch_of_a_turned_array_with_holes_and_jitter(degrees: float, flip: bool) -> None:
    rng = np.random.default_rng(0)
    array = square()[rng.random(84) < 0.6]
    places = turned(array[:, ::-1] if flip else array, degrees) * 290 + [5000, 700]
    pitch = estimate_pitch(array, places + rng.uniform(-20, 20, places.shape))
    assert pitch is not None
    assert pitch.px == pytest.approx(290, rel=0.01)
    assert pitch.residual < 0.1
    assert not pitch.hexagonal


def test_unequal_pitch_gives_the_geometric_mean() -> None:
    pitch = estimate_pitch(square(), square() * [101, 99])
    assert pitch is not None
    assert pitch.px == pytest.approx(np.sqrt(101 * 99))


def test_visium_numbers_give_the_distance_of_nearest_neighbours() -> None:
    from scipy.spatial import cKDTree

    array = np.array([(r, c) for r in range(14) for c in range(r % 2, 20, 2)], float)
    places = turned(array[:, ::-1] * [50, 100 * np.sqrt(3) / 2], 4)
    pitch = estimate_pitch(array, places)
    assert pitch is not None
    assert pitch.hexagonal
    assert pitch.px == pytest.approx(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))
    assert pitch.px == pytest.approx(100)


@pytest.mark.parametrize(
    "array", [square()[:2], np.array([(3.0, i) for i in range(9)]), np.array([(i, i) for i in range(5)])]
)
def test_no_plane_no_pitch(array: np.ndarray) -> None:
    assert estimate_pitch(array, array * 100) is None


def decide(**known: Any) -> tuple[float, str]:
    options = {"sheet": None, "pitch": None, "embedded": None, "sheet_decides": False, "where": "row 'S'", **known}
    return decide_mpp(**options)


def test_precedence() -> None:
    assert decide(sheet=0.50, pitch=0.51, embedded=0.52) == (0.50, "sheet")
    assert decide(pitch=0.51, embedded=0.52) == (0.51, "pitch")
    assert decide(embedded=0.52) == (0.52, "embedded")


@pytest.mark.parametrize(
    ("known", "code"),
    [
        ({"sheet": 0.50, "pitch": 0.53}, "mpp-disagrees"),
        ({"sheet": 0.50, "embedded": 0.25}, "mpp-disagrees"),
        ({"pitch": 0.27, "embedded": 1.0}, "mpp-disagrees"),
        ({"pitch": 0.27, "embedded": 1.0, "sheet_decides": True}, "mpp-disagrees"),
        ({"sheet": 68.8, "pitch": 0.688}, "mpp-implausible"),
        ({"sheet": 0.00688, "pitch": 0.688}, "mpp-implausible"),
        ({"sheet": 68.8, "sheet_decides": True}, "mpp-implausible"),
        ({}, "mpp-unknown"),
        ({"sheet_decides": True}, "mpp-unknown"),
    ],
)
def test_what_stops(known: dict[str, float], code: str) -> None:
    with pytest.raises(InputError, check=has_code(code), match="row 'S'") as caught:
        decide(**known)
    assert caught.value.remedy.startswith(("fill", "give", "correct"))


def test_the_sheet_may_overrule() -> None:
    assert decide(sheet=0.50, pitch=0.70, embedded=1.0, sheet_decides=True) == (0.50, "sheet")


def test_tissue_share() -> None:
    thumbnail = np.full((60, 90, 3), 240, np.uint8)
    thumbnail[:, :30] = (170, 80, 150)
    mask = tissue_mask(thumbnail)
    assert mask[:, :28].all()
    assert not mask[:, 33:].any()
    places = np.array([[50.0, 50.0], [850.0, 50.0], [-10.0, 50.0], [50.0, 900.0]])
    assert tissue_share(places, mask, 0.1) == 0.25
    assert not tissue_mask(np.full((40, 40, 3), 240, np.uint8)).any()
