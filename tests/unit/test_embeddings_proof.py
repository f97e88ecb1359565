"""Encoders proven without their weights: official key names load strictly, and a plain forward pass agrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import histoloom.torch_compat  # noqa: F401
from encoder_specs import full_spec
from error_codes import has_code
from histoloom.embeddings.cards import build_encoder, full_card, load_cards
from histoloom.embeddings.keymaps import KEY_MAPS
from histoloom.embeddings.weights import read_state
from histoloom.errors import InputError
from histoloom.kinds import load

torch = pytest.importorskip("torch")
import plain_encoders as plain  # noqa: E402

CARDS = load_cards()
Shapes = dict[str, tuple[int, ...]]


def save(path: Path, state: Mapping[str, Any]) -> Path:
    torch.save(dict(state), path)
    return path


def encoder(card: Mapping[str, Any], path: Path | str, **changes: Any) -> Any:
    spec = full_spec({"card": card, "tiles_spec": {}, "name": "x", "weights": str(path), **changes})
    return build_encoder(spec, threads=1, device="cpu")


def cut(name: str, size: int, dim: int, **arch: Any) -> dict[str, Any]:
    """A card's small relative: same code, key names and transform."""
    card = CARDS[name]
    return {**card, "arch_kwargs": {**card["arch_kwargs"], "img_size": size, **arch}, "input_px": size, "dim": dim}


def normalised(tiles: np.ndarray, card: Mapping[str, Any]) -> Any:
    images = (tiles / 255 - np.array(card["mean"])) / np.array(card["std"])
    return torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float32)


def random_tiles(n: int, size: int) -> np.ndarray:
    """Tiles that differ as wholes: coarse blocks under fine noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (n, 4, 4, 3)).repeat(-(-size // 4), 1).repeat(-(-size // 4), 2)[:, :size, :size]
    return (coarse + rng.integers(0, 56, (n, size, size, 3))).astype(np.uint8)


# name -> (small card, shapes of its checkpoint, plain forward pass)
SMALL: dict[str, tuple[dict[str, Any], Shapes, Callable[[Any, Any], Any]]] = {
    "uni": (
        cut("uni", 64, 64, depth=2, embed_dim=64, num_heads=4),
        plain.vit_shapes(64, 2, 16, 17, 256, scales=True),
        lambda state, images: plain.vit(state, images, 4, 16)[:, 0],
    ),
    "uni2_h": (
        cut("uni2_h", 56, 96, depth=2, embed_dim=96, num_heads=6),
        plain.vit_shapes(96, 2, 14, 16, 512, scales=True, registers=8, gated=True),
        lambda state, images: plain.vit(state, images, 6, 14)[:, 0],
    ),
    "conch_v1": (
        {**cut("conch_v1", 64, 32, depth=2, embed_dim=48, num_heads=4), "args": {"dim": 32, "heads": 8}},
        plain.conch_shapes(48, 2, 4, 32),
        lambda state, images: plain.conch(state, images, 4),
    ),
    "ctranspath": (
        cut("ctranspath", 112, 96, embed_dim=24, depths=[2, 2, 2], num_heads=[3, 6, 12]),
        plain.ctranspath_shapes(24, (2, 2, 2), 3, 112),
        lambda state, images: plain.ctranspath({k: v.float() for k, v in state.items()}, images),
    ),
    "resnet50": ({**CARDS["resnet50"], "input_px": 64}, plain.resnet50_shapes(), plain.resnet50),
    "densenet121": ({**CARDS["densenet121"], "input_px": 64}, plain.densenet121_shapes(), plain.densenet121),
}
# Full size: what the published checkpoints hold.
OFFICIAL: dict[str, Shapes] = {
    "uni": plain.vit_shapes(1024, 24, 16, 197, 4096, scales=True),
    "uni2_h": plain.vit_shapes(1536, 24, 14, 256, 8192, scales=True, registers=8, gated=True),
    "conch_v1": plain.conch_shapes(),
    "ctranspath": plain.ctranspath_shapes(),
    "resnet50": plain.resnet50_shapes(),
    "densenet121": plain.densenet121_shapes(),
    # Names of the transformers library and of DINOv2; what the files hold has not been seen.
    "phikon": plain.hf_shapes(768, 12, 16, 196, 3072, kind="vit") | plain.pair("pooler.dense", 768, 768),
    "phikon_v2": plain.hf_shapes(1024, 24, 16, 196, 4096, kind="dinov2"),
    "midnight": plain.hf_shapes(1536, 40, 14, 256, 4096, kind="swiglu"),
    "hibou_b": plain.hf_shapes(768, 12, 14, 256, 2048, kind="swiglu", registers=4),
    "hibou_l": plain.hf_shapes(1024, 24, 14, 256, 2736, kind="swiglu", registers=4),
    "gpfm": plain.vit_shapes(1024, 24, 14, 257, 4096, scales=True),
}
PROVEN = sorted(SMALL)


def test_only_what_is_proven_here_says_so() -> None:
    proven = {name for name, card in CARDS.items() if card["proven"]}
    # scgpt is proven in test_embeddings_scgpt.py; the others have no weights.
    assert proven - {*PROVEN} == {
        "scgpt", "stain_texture", "nuclear_density", "colour_only", "log_counts", "random_vit_tiny"
    }  # fmt: skip
    assert proven >= {*PROVEN}


@pytest.mark.parametrize("name", PROVEN)
def test_a_checkpoint_under_the_official_names_gives_the_plain_forward(tmp_path: Path, name: str) -> None:
    card, shapes, forward = SMALL[name]
    state = plain.random_state(shapes)
    tiles = random_tiles(5, card["input_px"])
    wrapped = {card["checkpoint"]["key"]: state} if card["checkpoint"].get("key") else state
    found = encoder(card, save(tmp_path / "w.pth", wrapped)).encode(tiles, 0.5)
    expected = forward(state, normalised(tiles, card)).numpy()
    assert found.shape == (5, card["dim"])
    assert np.isfinite(found).all()
    # The tiles are told apart: an agreement of constants would show nothing.
    assert found.std(axis=0).mean() > 1e-3 * np.abs(found).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", PROVEN)
def test_features_do_not_depend_on_the_batch(tmp_path: Path, name: str) -> None:
    card, shapes, _ = SMALL[name]
    path = save(tmp_path / "w.pth", plain.random_state(shapes))
    tiles = random_tiles(5, card["input_px"])
    whole = encoder(card, path).encode(tiles, 0.5)
    for size in (1, 2):
        np.testing.assert_allclose(
            encoder(card, path, batch_size=size).encode(tiles, 0.5), whole, atol=1e-5 * np.abs(whole).max()
        )


@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_the_full_architecture_has_the_names_and_shapes_of_the_checkpoint(name: str) -> None:
    import fnmatch

    card = CARDS[name]
    where = card["checkpoint"]
    with torch.device("meta"):
        own = load("encoders", card["kind"]).build(card, 0).state_dict()
        state = {k.removeprefix(where["prefix"] or ""): torch.empty(v) for k, v in OFFICIAL[name].items()}
        state = {k: v for k, v in state.items() if not any(fnmatch.fnmatchcase(k, p) for p in where["ignore"])}
        state = KEY_MAPS[where["keys"]](state) if where["keys"] else state
    assert {k: tuple(v.shape) for k, v in state.items()} == {k: tuple(v.shape) for k, v in own.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conch_v1", "ctranspath"])
def test_full_size(tmp_path: Path, name: str) -> None:
    card = CARDS[name]
    state = plain.random_state(OFFICIAL[name], scale=0.05)
    tiles = random_tiles(2, card["input_px"])
    found = encoder(card, save(tmp_path / "w.pth", state), upsample=True).encode(tiles, 0.5)
    forward = {"conch_v1": lambda s, x: plain.conch(s, x, 12), "ctranspath": plain.ctranspath}[name]
    expected = forward(state, normalised(tiles, card)).numpy()
    assert found.shape == (2, card["dim"])
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "arch", "shapes", "heads", "eps"),
    [
        ("phikon", {"depth": 2, "embed_dim": 48, "num_heads": 4}, {"hidden": 192, "kind": "vit"}, 4, 1e-12),
        ("phikon_v2", {"depth": 2, "embed_dim": 48, "num_heads": 4}, {"hidden": 192, "kind": "dinov2"}, 4, 1e-6),
        ("midnight", {"depth": 2, "embed_dim": 48, "num_heads": 4}, {"hidden": 128, "kind": "swiglu"}, 4, 1e-6),
        (
            "hibou_b",
            {"depth": 2, "embed_dim": 48, "num_heads": 4},
            {"hidden": 128, "kind": "swiglu", "registers": 4},
            4,
            1e-6,
        ),
    ],
)
def test_renamed_transformers_checkpoints_give_their_plain_forward(
    tmp_path: Path, name: str, arch: dict[str, int], shapes: dict[str, Any], heads: int, eps: float
) -> None:
    patch = CARDS[name]["arch_kwargs"].get("patch_size", 14 if name in {"midnight", "hibou_b"} else 16)
    card = cut(name, 4 * patch, 96 if name == "midnight" else 48, **arch)
    state = plain.random_state(plain.hf_shapes(48, 2, patch, 16, **shapes))
    tiles = random_tiles(3, 4 * patch)
    found = encoder(card, save(tmp_path / "w.pth", state)).encode(tiles, 0.5)
    tokens = plain.hf(state, normalised(tiles, card), heads, patch, eps)
    expected = tokens[:, 0] if name != "midnight" else torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_the_first_densenet_files_load_too(tmp_path: Path) -> None:
    card, shapes, _ = SMALL["densenet121"]
    new = plain.random_state(shapes)
    names = dict(zip((k for k in shapes if not k.endswith("tracked")), plain.densenet121_shapes("."), strict=True))
    old = {names[k]: v for k, v in new.items() if k in names}
    assert any(".norm.1." in k for k in old)
    tiles = random_tiles(2, 64)
    found = encoder(card, save(tmp_path / "old.pth", old)).encode(tiles, 0.5)
    np.testing.assert_array_equal(found, encoder(card, save(tmp_path / "new.pth", new)).encode(tiles, 0.5))


@pytest.mark.parametrize("name", ["conch_v1", "ctranspath", "phikon"])
def test_what_is_left_out_is_named_and_half_a_checkpoint_stops(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if name == "phikon":
        card = cut(name, 64, 48, depth=2, embed_dim=48, num_heads=4)
        shapes = plain.hf_shapes(48, 2, 16, 16, 192, kind="vit") | plain.pair("pooler.dense", 48, 48)
    else:
        card, shapes, _ = SMALL[name]
    state = plain.random_state(shapes)
    caplog.set_level("INFO")
    encoder(card, save(tmp_path / "w.pth", state))
    if name == "conch_v1":
        assert "logit_scale" in caplog.text or "attn_pool_caption" in caplog.text
    lost = next(
        k for k in state if k.endswith(("ln_q.weight", "blocks.1.norm1.bias", "layer.1.attention.attention.key.bias"))
    )
    with pytest.raises(InputError, check=has_code("weights-keys")):
        encoder(card, save(tmp_path / "half.pth", {k: v for k, v in state.items() if k != lost}))
    with pytest.raises(InputError, check=has_code("weights-keys")):
        encoder(card, save(tmp_path / "more.pth", {**state, "rubbish": torch.zeros(2)}))


def test_positions_of_another_grid_are_resampled_only_where_the_card_says_so(tmp_path: Path) -> None:
    card, _, _ = SMALL["conch_v1"]
    larger = plain.random_state(plain.conch_shapes(48, 2, 8, 32))
    path = save(tmp_path / "w.pth", larger)
    found = encoder(card, path)
    given, made = larger["visual.trunk.pos_embed"], found.model.trunk.pos_embed
    assert made.shape == (1, 17, 48)
    torch.testing.assert_close(made[:, :1], given[:, :1])
    # Bilinear, not antialiased, from 8 to 4: the mean of the two middle px of every four.
    grid = given[:, 1:].reshape(8, 8, 48)
    middle = (grid[0::2] + grid[1::2]) / 2
    middle = (middle[:, 0::2] + middle[:, 1::2]) / 2
    torch.testing.assert_close(made[0, 1:], middle.reshape(16, 48))
    strict = {**card, "checkpoint": {**card["checkpoint"], "positions": "strict"}}
    with pytest.raises(InputError, check=has_code("weights-keys")):
        encoder(strict, path)


def test_a_wrapped_checkpoint_is_unwrapped_only_by_its_key(tmp_path: Path) -> None:
    card = full_card(SMALL["ctranspath"][0])
    state = plain.random_state(SMALL["ctranspath"][1])
    plainly, wrapped = save(tmp_path / "a.pth", state), save(tmp_path / "b.pth", {"model": state, "epoch": 3})
    one, two = read_state(plainly, card), read_state(wrapped, card)
    assert list(one) == list(two)
    with pytest.raises(InputError, check=has_code("weights-no-tensors")):
        read_state(save(tmp_path / "c.pth", {"teacher": state}), card)


# The transform --------------------------------------------------------------------------------------------------------

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
# What the models' own pages say: resized to, cut to, filter, mean and std.
DOCUMENTED = {
    "uni": (224, 224, Image.Resampling.BILINEAR, IMAGENET),
    "uni2_h": (224, 224, Image.Resampling.BILINEAR, IMAGENET),
    "conch_v1": (448, 448, Image.Resampling.BICUBIC, CLIP),
    "ctranspath": (224, 224, Image.Resampling.BILINEAR, IMAGENET),
    "resnet50": (224, 224, Image.Resampling.BILINEAR, IMAGENET),
    "densenet121": (224, 224, Image.Resampling.BICUBIC, IMAGENET),
    "gigapath": (256, 224, Image.Resampling.BICUBIC, IMAGENET),
}


@pytest.fixture(scope="module")
def real_tile(real_data: Path) -> np.ndarray:
    from histoloom.slides import open_slide

    with open_slide(min((real_data / "her2st").rglob("*.jpg"))) as slide:
        return slide.read(4000, 4000, 512, 512).copy()


@pytest.mark.real
@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_transform_of_a_real_tile_is_the_documented_one(real_tile: np.ndarray, name: str) -> None:
    from histoloom.embeddings.torch_encoder import TimmEncoder

    resize, size, method, (mean, std) = DOCUMENTED[name]
    tile = real_tile
    assert tile.std() > 5
    for side in (size, 300, 512):
        pixels = tile[:side, :side]
        image = Image.fromarray(pixels)
        image = image if image.size == (resize, resize) else image.resize((resize, resize), method)
        edge = (resize - size) // 2
        kept = np.asarray(image)[edge : edge + size, edge : edge + size]
        expected = (kept / 255 - np.array(mean)) / np.array(std)
        spec = full_spec({"card": CARDS[name], "tiles_spec": {}, "weights": "random", "upsample": True})
        built = TimmEncoder(torch.nn.Identity(), spec, device="cpu", weights_sha256="", revision=None)
        found = built._transform(torch.from_numpy(pixels[None].copy()))[0].permute(1, 2, 0).numpy()
        # Pillow rounds to whole grey levels, once for each direction.
        levels = np.abs(found - expected) * np.array(std) * 255
        assert levels.max() < (0.01 if side == resize else 2.0)
        assert levels.mean() < 0.5
