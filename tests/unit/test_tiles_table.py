"""The table of tiles: tissue, reasons, metadata, specs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiles_inputs import PINK, save, write_sample

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.schemas import load_schema
from histoloom.slides import open_slide
from histoloom.tiles import TileSpec, cut_tiles
from histoloom.tiles.background import tissue_fraction, tissue_px
from histoloom.tiles.spec import Background, same_spec


def test_tissue_fraction_known_answers(tmp_path: Path) -> None:
    pixels = np.full((400, 600, 3), 240, np.uint8)
    pixels[:, :300] = PINK
    path = save(pixels, tmp_path / "half.png")
    centres = np.array([[100.0, 200.0], [300.0, 200.0], [320.0, 200.0], [310.5, 200.0], [500.0, 200.0], [0.0, 0.0]])
    with open_slide(path) as slide:
        for method in ("none", "rgb", "saturation", "optical_density"):
            share = tissue_fraction(slide, centres, 80.0, 0.5, Background(method=method))  # type: ignore[arg-type]
            np.testing.assert_allclose(share, [1, 0.5, 0.25, 0.5 - 10.5 / 80, 0, 0.25], atol=1e-5)


def test_tissue_fraction_agrees_with_counting_on_random_tissue(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    mask = rng.random((300, 500)) < 0.3
    path = save(np.where(mask[..., None], np.array(PINK), 245).astype(np.uint8), tmp_path / "noise.png")
    corners = rng.integers(0, 200, (20, 2))
    with open_slide(path) as slide:
        share = tissue_fraction(slide, corners + 32.0, 64.0, 4.0, Background())
    expected = [mask[y : y + 64, x : x + 64].mean() for x, y in corners]
    np.testing.assert_allclose(share, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("colour", "rgb", "saturation", "optical_density"),
    [
        ((255, 255, 255), False, False, False),
        ((0, 0, 0), False, False, False),
        ((3, 9, 0), False, False, False),
        ((170, 170, 170), True, False, True),
        ((245, 232, 240), False, False, False),
        (PINK, True, True, True),
        ((225, 160, 222), True, True, False),
    ],
)
def test_colours(colour: tuple[int, int, int], rgb: bool, saturation: bool, optical_density: bool) -> None:
    px = np.array(colour, np.uint8).reshape(1, 1, 3)
    found = [bool(tissue_px(px, Background(method=m))[0, 0]) for m in ("rgb", "saturation", "optical_density")]  # type: ignore[arg-type]
    assert found == [rgb, saturation, optical_density]


@pytest.fixture
def toy_slide(tmp_path: Path) -> Path:
    pixels = np.full((300, 400, 3), 242, np.uint8)
    pixels[40:260, 20:200] = PINK
    return save(pixels, tmp_path / "toy.png")


CENTRES = [[100.0, 150.0], [200.0, 150.0], [300.0, 150.0], [22.0, 150.0], [500.0, 150.0], [399.0, 299.0]]


def cut(tmp_path: Path, slide: Path, spec: dict[str, Any], centres: Any = CENTRES, **facts: Any) -> pd.DataFrame:
    sample = write_sample(tmp_path / "S1.h5ad", centres, (400, 300), **facts)
    out = tmp_path / "S1.parquet"
    cut_tiles(sample=sample, slide=slide, spec=spec, out=out, picture=tmp_path / "S1.png")
    return pd.read_parquet(out)


def test_table_reasons_and_metadata(tmp_path: Path, toy_slide: Path) -> None:
    spec = {"size_px": 64, "background": {"min_tissue": 0.25}}
    frame = cut(tmp_path, toy_slide, spec)
    assert list(frame) == ["obs_id", "x", "y", "tissue_fraction", "kept", "reason"]
    assert frame["reason"].tolist() == ["", "", "background", "border", "outside", "border"]
    assert frame["kept"].tolist() == [True, True, False, False, False, False]
    assert frame["obs_id"].tolist()[0] == "0x1"
    assert frame["tissue_fraction"].dtype == np.float32
    np.testing.assert_allclose(frame["tissue_fraction"][:3], [1, 0.5, 0], atol=1e-4)
    facts = read_metadata(tmp_path / "S1.parquet")
    counts = {k: facts[k] for k in ("n_obs", "n_kept", "n_border", "n_background", "n_outside")}
    assert counts == {"n_obs": 6, "n_kept": 2, "n_border": 2, "n_background": 1, "n_outside": 1}
    assert facts["spec"] == TileSpec.from_dict(spec).as_dict()
    assert (facts["cohort"], facts["sample"], facts["patient"]) == ("toy", "S1", "P1")
    assert facts["size_level0_px"] == 64.0
    assert facts["um_per_px"] == 0.5


def test_border_pad_and_no_background(tmp_path: Path, toy_slide: Path) -> None:
    frame = cut(tmp_path, toy_slide, {"size_px": 64, "border": "pad", "background": {"method": "none"}})
    assert frame["reason"].tolist() == ["", "", "", "", "outside", ""]
    # Measured all the same, and what lies outside the slide is glass.
    assert frame["tissue_fraction"][3] == pytest.approx((54 - 20) / 64, abs=1e-4)


def test_same_inputs_same_bytes(tmp_path: Path, toy_slide: Path) -> None:
    bytes_ = []
    for _ in range(2):
        cut(tmp_path, toy_slide, {"size_px": 64})
        bytes_.append([(tmp_path / f"S1.{end}").read_bytes() for end in ("parquet", "png")])
    assert bytes_[0] == bytes_[1]


def test_no_tile_kept_stops_with_counts(tmp_path: Path, toy_slide: Path) -> None:
    with pytest.raises(InputError, check=has_code("tiles-none-kept"), match=r"'S1'.*1 outside, 1 border, 1 background"):
        cut(tmp_path, toy_slide, {"size_px": 64}, [[300.0, 150.0], [5.0, 5.0], [-3.0, 10.0]])
    assert not (tmp_path / "S1.parquet").exists()
    assert not (tmp_path / "S1.png").exists()


def test_another_slide_stops(tmp_path: Path, toy_slide: Path) -> None:
    with pytest.raises(InputError, check=has_code("tiles-slide-size"), match=r"400 x 300 px.*401 x 300"):
        cut(tmp_path, toy_slide, {"size_px": 64}, slide_width=401)


def test_unknown_key_of_a_spec_stops() -> None:
    with pytest.raises(InputError, check=has_code("tiles-spec"), match=r"background\.min_tisue"):
        TileSpec.from_dict({"background": {"min_tisue": 0.1}})


def test_schema_and_code_have_the_same_defaults() -> None:
    def defaults(schema: dict[str, Any]) -> dict[str, Any]:
        return {
            key: defaults(sub) if sub.get("type") == "object" else sub["default"]
            for key, sub in schema["properties"].items()
        }

    assert defaults(load_schema("tiles")) == TileSpec().as_dict()


def test_a_spec_with_and_without_its_defaults_is_the_same() -> None:
    assert same_spec({"size_px": 224}, TileSpec().as_dict())
    assert not same_spec({"size_px": 224}, {"size_px": 224, "um_per_px": 0.5})
    assert not same_spec({}, {"background": {"min_tissue": 0.2}})


@pytest.mark.real
def test_real_section_keeps_its_spots_and_drops_its_glass(
    real_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    slide = real_data / "her2st/data/ST-imgs/C/C2/5714_HE_BT_C2.jpg"
    spots = pd.read_csv(real_data / "her2st/data/ST-spotfiles/C2_selection.tsv", sep="\t")
    centres = spots[["pixel_x", "pixel_y"]].to_numpy(float)
    with open_slide(slide) as image:
        size = (image.width, image.height)
    glass = np.array([[x, y] for x in range(400, 3000, 400) for y in range(400, 3000, 400)], float)
    sample = write_sample(tmp_path / "S1.h5ad", np.concatenate([centres, glass]), size, mpp=0.69)
    cut_tiles(sample=sample, slide=slide, spec={}, out=tmp_path / "S1.parquet", picture=tmp_path / "S1.png")
    frame = pd.read_parquet(tmp_path / "S1.parquet")
    assert frame["kept"][: len(centres)].all()
    assert not frame["kept"][len(centres) :].any()
    assert "kept 187 of 236 tiles" in caplog.text


def test_cells_without_a_slide_have_tiles_for_models_that_read_no_pixel(tmp_path: Path) -> None:
    centres = np.array([[50.0, 60.0], [400.0, 900.0], [30.0, 5.0]])
    sample = write_sample(tmp_path / "S1.h5ad", centres, (430, 905), slide_width=None, slide_height=None)
    out, picture = tmp_path / "t.parquet", tmp_path / "t.png"
    spec = TileSpec.from_dict({"size_px": 32, "um_per_px": 0.5, "border": "pad", "background": {"method": "none"}})
    cut_tiles(sample=sample, slide=None, spec=spec.as_dict(), out=out, picture=picture)
    table = pd.read_parquet(out)
    assert table["kept"].all()
    np.testing.assert_array_equal(table[["x", "y"]], centres)
    blind = TileSpec.from_dict({"size_px": 32, "um_per_px": 0.5, "border": "pad"})
    with pytest.raises(InputError, check=has_code("tiles-no-slide")):
        cut_tiles(sample=sample, slide=None, spec=blind.as_dict(), out=out, picture=picture)
