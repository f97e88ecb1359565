"""stain_texture: known answers of its parts, and what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.measure import label, regionprops

from histoloom.embeddings.nuclei import block_mean, measure
from histoloom.embeddings.stain_texture import PERCENTILES, StainTexture, quantiles, smooth
from histoloom.nuclei.find import nuclear_mask
from histoloom.nuclei.stains import deconvolve


@pytest.fixture(scope="module")
def encoder() -> StainTexture:
    return StainTexture({})


def tissue(
    um_per_px: float, side_um: float = 110.0, diameter_um: float = 7.0, pitch_um: float = 18.0, axes: float = 1.0
) -> np.ndarray:
    """Nuclei of known number and size on eosin: dark blue ellipses on a square grid, pink between."""
    n = round(side_um / um_per_px)
    y, x = (np.mgrid[:n, :n] + 0.5) * um_per_px
    dx, dy = np.mod(x, pitch_um) - pitch_um / 2, np.mod(y, pitch_um) - pitch_um / 2
    whole = (x - dx + pitch_um / 2 <= side_um) & (y - dy + pitch_um / 2 <= side_um)
    inside = (np.hypot(dx / np.sqrt(axes), dy * np.sqrt(axes)) <= diameter_um / 2) & whole
    return np.where(inside[..., None], (70, 50, 130), (230, 170, 205)).astype(np.uint8)


def test_deconvolution_is_skimages() -> None:
    tile = np.random.default_rng(0).integers(20, 256, (50, 40, 3)).astype(np.uint8)
    for found, expected in zip(deconvolve(tile), np.moveaxis(rgb2hed(tile), 2, 0), strict=True):
        np.testing.assert_allclose(found, np.minimum(expected * 4, 2.5), atol=1e-5)


def test_quantiles_are_numpys_to_a_bin() -> None:
    values = np.random.default_rng(1).gamma(2, 0.2, (100, 100)).astype(np.float32).clip(0, 2.5)
    np.testing.assert_allclose(quantiles(values, 2.5), np.percentile(values, PERCENTILES), atol=2 * 2.5 / 1024)


def test_block_mean_is_a_mean_over_blocks() -> None:
    image = np.random.default_rng(2).random((23, 31)).astype(np.float32)
    expected = image[:21, :30].reshape(7, 3, 10, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(block_mean(image, 3), expected, rtol=1e-5)
    assert block_mean(image, 1) is image


@pytest.mark.parametrize("sigma", [1.5, 5.0, 11.3])
def test_smooth_is_a_gaussian(sigma: float) -> None:
    image = np.random.default_rng(3).random((192, 192)).astype(np.float32)
    found, factor = smooth(image, sigma)
    expected = block_mean(ndimage.gaussian_filter(image, sigma), factor)
    inner = slice(30 // factor, -30 // factor)
    assert np.corrcoef(found[inner, inner].ravel(), expected[inner, inner].ravel())[0, 1] > 0.99
    assert found[inner, inner].std() == pytest.approx(expected[inner, inner].std(), rel=0.05)


def test_measures_are_regionprops() -> None:
    rng = np.random.default_rng(4)
    mask = ndimage.gaussian_filter(rng.random((120, 90)), 2.5) > 0.51
    h = rng.random((120, 90)).astype(np.float32)
    pieces = measure(mask, h, 0.5)
    props = regionprops(label(mask, connectivity=1), h)
    np.testing.assert_allclose(pieces["area"], [p.area * 0.25 for p in props])
    np.testing.assert_allclose(pieces["x"], [(p.centroid[1] + 0.5) * 0.5 for p in props])
    np.testing.assert_allclose(pieces["y"], [(p.centroid[0] + 0.5) * 0.5 for p in props])
    np.testing.assert_allclose(pieces["stain"], [p.intensity_mean for p in props], rtol=1e-5)
    np.testing.assert_allclose(pieces["chromatin"], [h[tuple(p.coords.T)].std() for p in props], atol=1e-4)
    large = [i for i, p in enumerate(props) if p.axis_minor_length > 5]
    ratio = [props[i].axis_major_length / props[i].axis_minor_length for i in large]
    np.testing.assert_allclose(pieces["elongation"][large], ratio, rtol=0.03)


@pytest.mark.parametrize("um_per_px", [0.27, 0.46, 0.69, 0.92])
def test_nuclei_are_counted_and_measured_in_um_at_any_magnification(encoder: StainTexture, um_per_px: float) -> None:
    found = encoder.tile_features(tissue(um_per_px), um_per_px)
    field = (round(110 / um_per_px) * um_per_px) ** 2 / 1e6
    assert found["nuclei"] * 1e3 * field == pytest.approx(36, abs=0.5)
    # A threshold of the smoothed stain draws the outline a little outside; it must do so alike at every magnification.
    assert found["nucleus_area_mean"] * 100 == pytest.approx(np.pi * 3.5**2, rel=0.35)
    assert found["spacing"] * 10 == pytest.approx(18, rel=0.03)
    assert found["nucleus_elongation_mean"] == pytest.approx(1.0, abs=0.1)
    for sigma in ("2.4", "3.84"):
        assert found[f"blobs_{sigma}um"] * 1e3 * field == pytest.approx(36, abs=1.5)


def test_features_tell_size_shape_and_number(encoder: StainTexture) -> None:
    plain = encoder.tile_features(tissue(0.5), 0.5)
    large = encoder.tile_features(tissue(0.5, diameter_um=11), 0.5)
    long = encoder.tile_features(tissue(0.5, axes=2.5), 0.5)
    dense = encoder.tile_features(tissue(0.5, pitch_um=11), 0.5)
    assert large["nucleus_area_mean"] > 1.7 * plain["nucleus_area_mean"]
    assert large["disc_nuclei_large"] > plain["disc_nuclei_large"]
    assert long["nucleus_elongation_mean"] > 1.8 > 1.2 > plain["nucleus_elongation_mean"]
    assert dense["nuclei"] > 2 * plain["nuclei"]
    assert dense["disc_nuclei"] > 2 * plain["disc_nuclei"]


def test_fibres_are_coherent_and_noise_is_not(encoder: StainTexture) -> None:
    y = np.mgrid[:200, :200][0]
    fibres = np.repeat((200 + 40 * np.sin(y / 2))[..., None], 3, axis=2).astype(np.uint8)
    noise = np.random.default_rng(0).integers(150, 250, (200, 200, 3)).astype(np.uint8)
    assert encoder.tile_features(fibres, 0.5)["green_1um_coherence"] > 0.95
    assert encoder.tile_features(noise, 0.5)["green_1um_coherence"] < 0.1


def test_hole_of_fat_is_glass_of_its_size(encoder: StainTexture) -> None:
    tile = np.full((224, 224, 3), (220, 150, 190), np.uint8)
    y, x = (np.mgrid[:224, :224] + 0.5) * 0.5
    tile[np.hypot(x - 56, y - 56) < 30] = 245
    found = encoder.tile_features(tile, 0.5)
    assert found["glass"] == pytest.approx(np.pi * 900 / 112**2, rel=0.05)
    assert found["glass_effective_um"] == pytest.approx(60, rel=0.05)


@pytest.mark.parametrize("colour", [0, 255, 128])
def test_tiles_without_contrast_are_finite(encoder: StainTexture, colour: int) -> None:
    for size in (32, 224):
        assert np.isfinite(encoder.encode(np.full((1, size, size, 3), colour, np.uint8), 0.69)).all()


def test_rotation_by_a_quarter_and_mirror_hardly_matter(encoder: StainTexture) -> None:
    tile = tissue(0.5, side_um=112)
    tile = np.clip(tile.astype(int) + np.random.default_rng(0).normal(0, 12, tile.shape), 0, 255).astype(np.uint8)
    features = encoder.encode(np.stack([tile, np.rot90(tile), tile[:, ::-1]]), 0.5)
    np.testing.assert_allclose(features[1:], features[[0, 0]], rtol=0.05, atol=0.05)


def test_order_batch_and_workers_do_not_matter(encoder: StainTexture) -> None:
    tiles = np.random.default_rng(6).integers(0, 256, (11, 48, 48, 3)).astype(np.uint8)
    straight = encoder.encode(tiles, 0.6)
    order = np.random.default_rng(7).permutation(11)
    np.testing.assert_array_equal(encoder.encode(tiles[order], 0.6), straight[order])
    np.testing.assert_array_equal(np.concatenate([encoder.encode(t[None], 0.6) for t in tiles]), straight)
    pooled = StainTexture({}, threads=3)
    np.testing.assert_array_equal(pooled.encode(tiles, 0.6), straight)
    pooled.close()
    assert encoder.encode(tiles[:0], 0.6).shape == (0, encoder.dim)


def test_mask_is_true_on_nuclei_only() -> None:
    tile = tissue(0.5)
    nuclei = tile[..., 0] == 70
    mask = nuclear_mask(deconvolve(tile)[0], 0.5)
    assert (mask & nuclei).sum() / nuclei.sum() > 0.95
    grown = ndimage.binary_dilation(nuclei, iterations=3)
    assert not (mask & ~grown).any()
