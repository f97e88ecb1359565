"""The plain levels: nuclei and nothing else, colour and nothing else; against known dots and simulated tissue."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from skimage.color import rgb2hed
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_nuclei_count import picture

from encoder_specs import full_spec
from histoloom.embeddings.cards import build_encoder, load_cards
from histoloom.embeddings.simple_features import ColourOnly, NuclearDensity
from histoloom_simulation import simulate_section
from histoloom_simulation.render import draw_slide
from simulation_fixtures import sheet_row, simulated_spec

FIELD_UM = 112.0


@pytest.mark.parametrize("name", ["nuclear_density", "colour_only"])
def test_cards_build_what_they_say(name: str) -> None:
    spec = full_spec({"card": load_cards()[name], "tiles": "t", "tiles_spec": {}, "name": "x"})
    encoder = build_encoder(spec, threads=1)
    assert (spec.weights, encoder.weights_sha256, encoder.device) == ("none", None, "cpu")
    assert encoder.dim == load_cards()[name]["dim"] == len(encoder.feature_names or ())
    tiles = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3)).astype(np.uint8)
    together = encoder.encode(tiles, 0.5)
    np.testing.assert_array_equal(np.concatenate([encoder.encode(t[None], 0.5) for t in tiles]), together)
    for level in (0, 128, 255):
        assert np.isfinite(encoder.encode(np.full((1, 64, 64, 3), level, np.uint8), 0.9)).all()


@pytest.mark.parametrize("um_per_px", [0.25, 0.5, 0.9])
def test_density_is_the_number_of_dots_per_area_whatever_the_scan(um_per_px: float) -> None:
    grid = np.stack(np.meshgrid(np.arange(8, 112, 16.0), np.arange(8, 112, 16.0)), axis=-1).reshape(-1, 2)
    found = NuclearDensity({"args": {"disc_um": 100}}).tile_features(picture(grid, FIELD_UM, um_per_px), um_per_px)
    side = round(FIELD_UM / um_per_px) * um_per_px
    assert found["nuclei"] == pytest.approx(49 / side**2 * 1e3, rel=0.01)
    inside = (np.hypot(*(grid - FIELD_UM / 2).T) <= 50).sum()
    assert found["disc_nuclei"] == pytest.approx(inside / (np.pi * 50**2) * 1e3, rel=0.01)


def test_density_hears_nothing_of_where_nuclei_lie_and_little_of_their_size() -> None:
    rng, encoder = np.random.default_rng(1), NuclearDensity({})
    even = np.stack(np.meshgrid(np.arange(20, 100, 20.0), np.arange(20, 100, 20.0)), axis=-1).reshape(-1, 2)
    made = [picture(even, FIELD_UM, 0.5), picture(even, FIELD_UM, 0.5, radius_um=5.0)]
    made += [picture(even + rng.uniform(-4, 4, even.shape), FIELD_UM, 0.5), np.rot90(made[0]), made[0][:, ::-1]]
    found = [encoder.tile_features(np.ascontiguousarray(tile), 0.5) for tile in made]
    assert len({f["nuclei"] for f in found}) == 1
    assert found[0]["nuclei"] == pytest.approx(16 / FIELD_UM**2 * 1e3)


def test_colour_is_moments_of_colours_and_stains_and_no_place() -> None:
    rng, encoder = np.random.default_rng(2), ColourOnly({})
    tile = rng.integers(90, 250, (60, 60, 3)).astype(np.uint8)
    tile[:30] = tile[:30] // 2
    found = encoder.tile_features(tile, 0.5)
    for c, name in enumerate("rgb"):
        assert found[f"{name}_mean"] == pytest.approx(tile[..., c].mean() / 255)
        assert found[f"{name}_sd"] == pytest.approx(tile[..., c].std() / 255)
    stains = np.minimum(rgb2hed(tile) * 4, 2.5)
    for c, name in enumerate("hed"):
        assert found[f"{name}_mean"] == pytest.approx(stains[..., c].mean(), abs=1e-4)
        assert found[f"{name}_sd"] == pytest.approx(stains[..., c].std(), abs=1e-4)
    shuffled = rng.permutation(tile.reshape(-1, 3)).reshape(tile.shape)
    assert encoder.tile_features(shuffled, 2.0) == pytest.approx(found, abs=1e-6)


@cache
def _section(name: str, stained: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the tiles of a small section, the true cells under its spots (n, types) and its um per px."""
    row = sheet_row(name, mpp="0.5")
    spec = simulated_spec(array_x=8, array_y=7, effects={"stain_by_patient": stained})
    made = simulate_section(spec, row)
    image = draw_slide(spec, made.section, made.layout, made.tissue, made.cells, made.options)
    half = round(FIELD_UM / made.section.mpp / 2)
    places = np.rint(made.layout.centres[made.spots] / made.section.mpp).astype(int)
    fits = [
        i for i, (x, y) in enumerate(places) if half <= x < image.shape[1] - half and half <= y < image.shape[0] - half
    ]
    tiles = np.stack([image[y - half : y + half, x - half : x + half] for x, y in places[fits]])
    return tiles, np.asarray(made.abundance, float)[fits], made.section.mpp


def test_density_knows_how_many_cells_there_are_and_colour_less_of_it() -> None:
    density, colour = [], []
    for name in ("W1", "X1"):
        tiles, cells, um_per_px = _section(name, True)
        total = cells.sum(axis=1)
        for encoder, found in ((NuclearDensity({"args": {"disc_um": 55}}), density), (ColourOnly({}), colour)):
            features = encoder.encode(tiles, um_per_px)
            model = make_pipeline(StandardScaler(), Ridge(1.0))
            found.append(np.corrcoef(cross_val_predict(model, features, total, cv=5), total)[0, 1])
    assert min(density) > 0.75, (density, colour)
    assert np.mean(density) > np.mean(colour), (density, colour)


def _patient_told(encoder: NuclearDensity | ColourOnly, stained: bool) -> float:
    """Return the share of tiles whose patient (of four, same scan) a linear model names from half of the others."""
    parts = [_section(name, stained) for name in ("W1", "X1", "Y1", "Z1")]
    features = np.concatenate([encoder.encode(tiles, um_per_px) for tiles, _, um_per_px in parts])
    patient = np.repeat(range(4), [len(tiles) for tiles, _, _ in parts])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return float((cross_val_predict(model, features, patient, cv=4) == patient).mean())


def test_colour_tells_the_patient_by_the_stain_and_density_does_not() -> None:
    """The simulated effect `stain_by_patient`: colours name the patient; with the effect off they hardly do. A count never does."""
    on, off = _patient_told(ColourOnly({}), True), _patient_told(ColourOnly({}), False)
    count = _patient_told(NuclearDensity({}), True)
    assert on > 0.85, (on, off, count)
    assert off < on - 0.2, (on, off, count)
    assert count < 0.6, (on, off, count)


def test_types_that_look_alike_are_told_by_their_sum_only() -> None:
    """The simulated effect `same_morphology`: how many of the two there are shows, which of the two they are does not."""
    tiles, cells, um_per_px = _section("W1", True)
    from histoloom_simulation.celltypes import TWINS

    made = simulate_section(simulated_spec(array_x=8, array_y=7), sheet_row("W1", mpp="0.5"))
    first, second = ([t.name for t in made.cells.types].index(name) for name in TWINS)
    both = cells[:, first] + cells[:, second]
    known = both >= 4
    share = cells[known, first] / both[known]
    features = np.concatenate([e.encode(tiles, um_per_px) for e in (NuclearDensity({}), ColourOnly({}))], axis=1)
    model = make_pipeline(StandardScaler(), Ridge(10.0))
    whole = np.corrcoef(cross_val_predict(model, features, both, cv=5), both)[0, 1]
    parted = np.corrcoef(cross_val_predict(model, features[known], share, cv=5), share)[0, 1]
    assert whole > 0.4, (whole, parted)
    assert abs(parted) < 0.35, (whole, parted)
