"""Cells by their tokens: which tokens, which window, and both modes against a plain forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_embeddings import Toy

import histoloom.torch_compat  # noqa: F401
from encoder_specs import full_spec
from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.embeddings import open_embeddings
from histoloom.embeddings.cards import build_encoder, full_card, load_cards
from histoloom.embeddings.tokens import share_windows, token_block
from histoloom.errors import InputError
from histoloom.schemas import check, load_schema
from histoloom.slides import open_slide
from histoloom.tiles import read_tiles
from token_trade_off import cells_from_tokens, cosine, trade_off

torch = pytest.importorskip("torch")
import plain_encoders as plain  # noqa: E402

CARDS = load_cards()
UNI2 = CARDS["uni2_h"]
CARD = {**UNI2, "input_px": 56, "dim": 48, "default_weights": "random"}
CARD["arch_kwargs"] = {**UNI2["arch_kwargs"], "img_size": 56, "depth": 2, "embed_dim": 48, "num_heads": 3}
TILES = {"size_px": 56, "um_per_px": "native", "background": {"method": "none"}}
SIDE = 56.0


def test_the_tokens_of_the_paper() -> None:
    """Its code's numbers on the 16 x 16 grid: the middle four, and rows and columns 6 to 9."""
    middle = np.zeros((1, 2))
    assert token_block(middle, 224, 16, 4).tolist() == [[119, 120, 135, 136]]
    rows = [102, 103, 104, 105, 118, 119, 120, 121, 134, 135, 136, 137, 150, 151, 152, 153]
    assert token_block(middle, 224, 16, 16).tolist() == [rows]
    assert token_block(middle, 224, 16, 256).tolist() == [list(range(256))]


def test_tokens_follow_the_nucleus_and_stay_inside() -> None:
    # x to the right is the column: 14 px are one token.
    assert token_block([[14.0, 0.0]], 224, 16, 4).tolist() == [[120, 121, 136, 137]]
    assert token_block([[0.0, 14.0]], 224, 16, 4).tolist() == [[135, 136, 151, 152]]
    # The token that holds the place, and the eight around it.
    assert token_block([[-107.0, -107.0], [7.0, -7.0]], 224, 16, 1).tolist() == [[0], [7 * 16 + 8]]
    assert token_block([[7.0, 7.0]], 224, 16, 9)[0].tolist() == [119, 120, 121, 135, 136, 137, 151, 152, 153]
    for k in (1, 4, 9, 16):
        block = token_block(np.random.default_rng(0).uniform(-112, 112, (500, 2)), 224, 16, k)
        assert block.min() >= 0
        assert block.max() < 256
        assert (np.diff(block % 16, axis=1) >= -int(np.sqrt(k))).all()
        assert all(len(set(row)) == k for row in block.tolist())


@pytest.mark.parametrize("k", [2, 0, 289])
def test_a_number_of_tokens_that_is_no_block_stops(k: int) -> None:
    with pytest.raises(InputError, check=has_code("tokens-k")):
        token_block(np.zeros((1, 2)), 224, 16, k)


def test_every_cell_gets_its_nearest_window_and_no_window_is_idle() -> None:
    cells = np.random.default_rng(0).uniform([100, 50], [900, 300], (400, 2))
    found = share_windows(cells, 60.0)
    assert sorted(set(found.of_cell)) == list(range(len(found.centres)))
    np.testing.assert_allclose(found.centres[found.of_cell] + found.offset, cells)
    assert np.abs(found.offset).max() <= 30 + 1e-9
    assert (found.centres.min(0) >= cells.min(0)).all()
    assert (found.centres.max(0) <= cells.max(0)).all()
    # The last step may pass the last cell: its window is moved back.
    edge = share_windows([[0.0, 0.0], [100.0, 40.0]], 60.0)
    assert edge.centres.tolist() == [[0.0, 0.0], [100.0, 40.0]]
    assert edge.offset.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    # One cell, cells in one place, cells on a line.
    assert share_windows([[5.0, 7.0]], 60).centres.tolist() == [[5.0, 7.0]]
    assert len(share_windows(np.full((9, 2), 3.0), 60).centres) == 1
    assert len(share_windows(np.c_[np.arange(0.0, 600), np.zeros(600)], 60).centres) == 11


def test_sharing_saves_nine_forwards_of_ten_at_realistic_density() -> None:
    """4,000 cells per mm2 at 0.5 um/px, windows 56 um apart."""
    cells = np.random.default_rng(0).uniform(0, 4000, (16 * 4000 // 4, 2))
    assert len(share_windows(cells, 112.0).centres) <= 0.1 * len(cells)


def plain_tokens(state: Any, slide: Path, centres: np.ndarray) -> np.ndarray:
    with open_slide(slide) as opened:
        tiles = np.stack(list(read_tiles(opened, centres, SIDE, 56)))
    images = (tiles / 255 - np.array(CARD["mean"])) / np.array(CARD["std"])
    tokens = plain.vit(state, torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float32), 3, 14)
    return tokens[:, 9:].numpy()


@pytest.fixture
def job(tmp_path: Path) -> tuple[Toy, Any, Any]:
    toy = Toy(tmp_path, n=20)
    for name in toy.names:
        toy.cut(name, TILES)
    state = plain.random_state(plain.vit_shapes(48, 2, 14, 16, 256, scales=True, registers=8, gated=True))
    torch.save(state, tmp_path / "w.pth")

    def run(**tokens: Any) -> Any:
        spec = {"card": CARD, "tiles_spec": TILES, "name": "u", "weights": str(tmp_path / "w.pth"), "batch_size": 7}
        return toy.embed(f"{tokens}.h5", spec={**spec, "tokens": tokens})

    return toy, state, run


@pytest.mark.parametrize("k", [1, 4, 9, 16])
def test_both_modes_are_the_plain_forwards_tokens(job: tuple[Toy, Any, Any], k: int) -> None:
    toy, state, run = job
    exact, shared = run(mode="exact", k=k), run(mode="shared", k=k, stride_um=20.0)
    one, two = open_embeddings([exact]), open_embeddings([shared])
    assert one.obs["obs_id"].tolist() == two.obs["obs_id"].tolist()
    forwards = 0
    for name in toy.names:
        rows = one.obs["sample"] == name
        cells = one.coords[rows]
        tokens = plain_tokens(state, toy.folder / f"{name}.png", cells)
        expected = cells_from_tokens(tokens, token_block(np.zeros_like(cells), SIDE, 4, k))
        np.testing.assert_allclose(one.rows()[rows], expected, rtol=1e-4, atol=1e-4)
        # 20 um are 40 px at 0.5 um/px.
        windows = share_windows(cells, 40.0)
        forwards += len(windows.centres)
        of_windows = plain_tokens(state, toy.folder / f"{name}.png", windows.centres)
        for i, cell in enumerate(np.flatnonzero(rows)):
            window = windows.of_cell[i]
            (block,) = token_block(cells[[i]] - windows.centres[window], SIDE, 4, k)
            np.testing.assert_allclose(two.rows()[cell], of_windows[window][block].mean(0), rtol=1e-4, atol=1e-4)
    told = read_metadata(shared)["tokens"]
    assert (told["cells"], told["forwards"]) == (len(one), forwards)
    assert forwards < len(one)
    with pytest.raises(InputError, check=has_code("embeddings-tokens")):
        open_embeddings([exact, shared])


def test_a_vanishing_stride_gives_the_exact_mode_and_the_curve_says_so(job: tuple[Toy, Any, Any]) -> None:
    toy, _, run = job
    exact = open_embeddings([run(mode="exact")])
    rows = exact.obs["sample"] == "S1"
    cells = exact.coords[rows]
    shared = {px: open_embeddings([run(mode="shared", k=4, stride_um=px / 2)]).rows()[rows] for px in (1e-6, 30.0)}
    np.testing.assert_allclose(shared[1e-6], exact.rows()[rows], atol=1e-5)
    none, some = trade_off(cells, exact.rows()[rows], shared)
    assert (none["forwards_share"], round(none["cosine_median"], 5)) == (1.0, 1.0)
    assert some["forwards_share"] < 1
    assert some["cosine_median"] <= 1
    np.testing.assert_allclose(cosine(exact.rows()[:2], -2 * exact.rows()[:2]), -1)


def test_settings_have_defaults_and_conv_nets_have_no_tokens() -> None:
    entry: dict[str, Any] = {"card": "uni2_h", "tiles": "t", "tokens": {"mode": "shared"}}
    check(entry, load_schema("encoder"), "here")
    assert entry["tokens"] == {"mode": "shared", "k": 4, "stride_um": 56}
    for name in ("resnet50", "ctranspath"):
        spec = {"card": full_card(CARDS[name]), "tiles_spec": {}, "name": "x", "weights": "random", "tokens": {}}
        with pytest.raises(InputError, check=has_code("encoder-no-tokens")):
            build_encoder(full_spec({**spec, "tokens": {"mode": "exact"}}), threads=1, device="cpu")
