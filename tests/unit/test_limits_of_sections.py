"""Limits of samples, tiles and audit, met exactly and passed by a little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_samples_visium import make
from tiles_inputs import PINK, save, write_sample

from error_codes import has_code
from histoloom.audit.compare import Evidence, Vocabulary, probe_rows, shared_totals
from histoloom.audit.fingerprint import make_fingerprint
from histoloom.errors import InputError
from histoloom.samples.alignment import slide_mpp, to_slide
from histoloom.samples.geometry import estimate_pitch
from histoloom.samples.reader import differences
from histoloom.samples.tables import read_positions
from histoloom.samples.visium import VisiumReader
from histoloom.samples.xenium import check_alignment
from histoloom.slides import open_slide
from histoloom.tiles.cut import check_slide, cut_tiles, tile_table
from histoloom.tiles.spec import TileSpec
from raw_layouts import SpaceRanger, slide_with_tissue


@pytest.mark.parametrize(("width", "height"), [(401, 300), (400, 301), (300, 400)])
def test_a_slide_of_another_width_or_height_stops(tmp_path: Path, width: int, height: int) -> None:
    slide = save(np.full((height, width, 3), PINK, np.uint8), tmp_path / "s.png")
    sample = write_sample(tmp_path / "S1.h5ad", [[100.0, 150.0]], (400, 300))
    with pytest.raises(InputError, check=has_code("tiles-slide-size")):
        cut_tiles(
            sample=sample, slide=slide, spec={"size_px": 64}, out=tmp_path / "o.parquet", picture=tmp_path / "o.png"
        )
    with open_slide(slide) as image:
        check_slide(image, {"slide_width": width, "slide_height": height}, sample)


@pytest.mark.parametrize(("least", "kept"), [(0.25, True), (0.2500001, True), (0.26, False), (0.24, True)])
def test_a_tile_with_exactly_the_least_tissue_is_kept(tmp_path: Path, least: float, kept: bool) -> None:
    pixels = np.full((200, 200, 3), 242, np.uint8)
    pixels[50:150, 50:75] = PINK
    spec = TileSpec.from_dict({"size_px": 100, "background": {"min_tissue": least}})
    with open_slide(save(pixels, tmp_path / "s.png")) as slide:
        table = tile_table(slide, pd.Index(["a"]), np.array([[100.0, 100.0]]), spec, 4.0)
    assert table["tissue_fraction"].iloc[0] == np.float32(0.25)
    # 0.2500001 and 0.25 are the same in the table's 32 bits apart from rounding at the sixth digit.
    assert table["kept"].iloc[0] == (np.float32(0.25) >= np.float32(least))
    assert kept == (least < 0.2501)


@pytest.mark.parametrize(("outside", "stops"), [(0, False), (5, False), (6, True), (20, True)])
def test_five_of_a_hundred_cells_may_lie_off_the_slide(tmp_path: Path, outside: int, stops: bool) -> None:
    save(slide_with_tissue(400, 300, (50, 50, 350, 250)), tmp_path / "s.png")
    cells = np.tile([200.0, 150.0], (100, 1))
    cells[:outside, 0] = 401
    files = {"image": tmp_path / "s.png", "alignment": tmp_path / "a.csv"}
    if stops:
        with pytest.raises(InputError, check=has_code("xenium-alignment")):
            check_alignment(cells, cells, files)
    else:
        assert (~check_alignment(cells, cells, files)).sum() == outside


def test_um_per_px_of_an_anisotropic_alignment_is_the_geometric_mean() -> None:
    matrix = np.diag([2.0, 2.1, 1.0])
    assert slide_mpp(matrix, 0.2125) == pytest.approx(0.2125 * np.sqrt(2.0 * 2.1), rel=1e-12)
    corners = np.array([[0.0, 0.0], [100.0, 0.0], [100.0, 100.0]])
    placed = to_slide(corners, matrix, 0.2125)
    area_px = np.prod(np.ptp(placed, axis=0))
    assert 100.0 * 100.0 / area_px == pytest.approx(slide_mpp(matrix, 0.2125) ** 2, rel=1e-12)


@pytest.mark.parametrize(("off", "stops"), [(0, False), (10, False), (-10, False), (14, True), (-14, True)])
def test_an_image_may_differ_by_what_rounding_of_the_small_one_explains(tmp_path: Path, off: int, stops: bool) -> None:
    outs = SpaceRanger()
    root = outs.write(tmp_path)
    scale = outs.scales["tissue_hires_scalef"]
    with Image.open(root / outs.row["outs"] / "spatial/tissue_hires_image.png") as small:
        width, height = round(small.width / scale), round(small.height / scale)
    limit = 1 + 1 / scale
    changed = (
        int(np.sign(off) * (abs(off) - 10 + np.ceil(limit)))
        if stops
        else int(np.sign(off) * np.floor(limit) * (off != 0))
    )
    Image.fromarray(slide_with_tissue(width + changed, height, (200, 200, 3400, 1500))).save(root / "V1/other.png")
    outs.row["image"] = "V1/other.png"
    if stops:
        with pytest.raises(InputError, check=has_code("slide-size")):
            make(outs, root)
    else:
        assert make(outs, root).n_obs > 0


def spots(totals: list[int], genes: int = 40) -> np.ndarray:
    """Counts whose spots have these totals, all on gene 0."""
    counts = np.zeros((len(totals), genes), int)
    counts[:, 0] = totals
    return counts


def test_a_spot_is_the_twin_of_one_spot_only() -> None:
    names = [f"G{i}" for i in range(40)]
    many = make_fingerprint("c", "A", "p", spots([100] * 40), names)
    few = make_fingerprint("c", "B", "q", spots([100] * 5 + list(range(1000, 1035))), names)
    assert shared_totals(many, few) == pytest.approx(5 / 40)
    assert shared_totals(few, many) == pytest.approx(5 / 40)


def test_reference_spots_come_from_the_deep_half() -> None:
    rng = np.random.default_rng(0)
    totals = rng.permutation(np.arange(1, 401)).tolist()
    section = make_fingerprint("c", "A", "p", spots(totals), [f"G{i}" for i in range(40)])
    depth = section.pairs[probe_rows(section), 0]
    assert depth.min() >= 200
    assert len(np.unique(depth)) == len(depth)


@pytest.mark.parametrize(("share", "verdict"), [(0.29, "different"), (0.30, "same"), (0.45, "same"), (0.6, "same")])
def test_three_spots_of_ten_make_two_sections_one(share: float, verdict: str) -> None:
    nan = float("nan")
    assert Evidence(share, nan, nan, 0, nan).verdict == verdict
    assert Evidence(nan, nan, share, 500, nan).verdict == verdict


@pytest.mark.parametrize(("n_shared", "verdict"), [(40, "same"), (12, "different")])
def test_a_pair_with_some_twins(n_shared: int, verdict: str) -> None:
    names = [f"G{i}" for i in range(40)]
    first = make_fingerprint("c", "A", "p", spots(list(range(1000, 1100))), names)
    second = make_fingerprint(
        "c", "B", "q", spots([*range(1000, 1000 + n_shared), *range(5000, 5100 - n_shared)]), names
    )
    assert Vocabulary([first, second]).compare(0, 1).verdict == verdict


@pytest.mark.parametrize("kept", [3, 5, 9, 60])
@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_the_pitch_of_a_hexagonal_array_does_not_depend_on_how_many_spots_survive(kept: int, angle: float) -> None:
    rows, columns = np.mgrid[0:20, 0:20]
    one = (rows + columns) % 2 == 0
    array = np.column_stack([rows[one], columns[one]])
    plain = np.column_stack([array[:, 1] * 50.0, array[:, 0] * 50.0 * np.sqrt(3)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    some = np.array([0, 1, 11, 12, 25, 33, 41, 55, 77, *range(100, 151)])[:kept]
    pitch = estimate_pitch(array[some], (plain @ turn)[some])
    assert pitch is not None
    assert pitch.hexagonal
    assert pitch.px == pytest.approx(100.0)


def test_a_square_array_with_every_second_spot_is_square() -> None:
    rows, columns = np.mgrid[0:6, 0:6]
    one = (rows + columns) % 2 == 0
    array = np.column_stack([rows[one], columns[one]])
    pitch = estimate_pitch(array, array[:, ::-1] * 100.0)
    assert pitch is not None
    assert not pitch.hexagonal
    assert pitch.px == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (["AAAC-1", "AAAG-1"], ["AAAC", "AAAG"], "100 % agree without their endings"),
        (["aaac", "aaag"], ["AAAC", "AAAG"], "100 % agree without regard to case"),
        (["010x013", "02x3"], ["10x13", "2x3"], "100 % agree without zeros"),
        (["a b", "c d"], ["ab", "cd"], "100 % agree without blanks"),
    ],
)
def test_how_ids_differ_is_said(first: list[str], second: list[str], says: str) -> None:
    assert says in differences(pd.Index(first), pd.Index(second))


def test_a_join_of_files_of_two_sections_stops(tmp_path: Path) -> None:
    outs = SpaceRanger()
    half = outs.positions["in_tissue"].eq(1).cumsum() % 4 == 0
    outs.positions.loc[half, "barcode"] = outs.positions.loc[half, "barcode"].str.replace("-1", "-2")
    root = outs.write(tmp_path)
    with pytest.raises(InputError, check=has_code("join-unmatched")) as error:
        make(outs, root)
    assert "-2" in error.value.problem


def test_positions_keep_names_that_look_like_numbers(tmp_path: Path) -> None:
    lines = [
        "obs_id\tarray_row\tarray_col\tpixel_x\tpixel_y\tin_tissue",
        "007\t0\t0\t1.5\t2\tTrue",
        "NA\t0\t1\t3\t4\tFalse",
    ]
    (tmp_path / "p.tsv").write_text("\n".join(lines) + "\n")
    table = read_positions(tmp_path / "p.tsv")
    assert list(table.index) == ["007", "NA"]
    assert table["in_tissue"].tolist() == [True, False]


def test_segmented_outputs_are_named(tmp_path: Path) -> None:
    (tmp_path / "outs").mkdir()
    (tmp_path / "outs/filtered_feature_cell_matrix.h5").write_bytes(b"x")
    with pytest.raises(InputError, check=has_code("visium-segmented")):
        VisiumReader.files({"sample": "S1", "outs": "outs", "image": "i.png"}, {}, tmp_path)
