"""timm encoders: strict loading, transform and pooling against a plain re-statement, the hub's refusals."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import histoloom.torch_compat  # noqa: F401
from encoder_specs import full_spec
from error_codes import has_code
from histoloom.embeddings import weights
from histoloom.embeddings.cards import build_encoder, full_card, load_cards
from histoloom.embeddings.torch_encoder import TimmEncoder
from histoloom.errors import InputError
from histoloom.identity import sha256_file

torch = pytest.importorskip("torch")
import plain_encoders as plain  # noqa: E402

CARDS = load_cards()
# Small relatives: the same code and key names, depth 2.
SMALL_VIT = {**CARDS["random_vit_tiny"], "arch_kwargs": {"img_size": 64, "num_classes": 0, "depth": 2, "embed_dim": 48}}
SMALL_VIT |= {"input_px": 64, "pooling": "cls", "dim": 48, "default_weights": "hub", "hub_id": "nobody/nothing"}
SMALL_VIT |= {"revision": "0123abc", "checkpoint": {"file": "model.safetensors"}}
TILES = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3)).astype(np.uint8)


def entry(card: Mapping[str, Any] = SMALL_VIT, **changes: Any) -> dict[str, Any]:
    return full_spec({"card": card, "tiles_spec": {}, "name": "x", "weights": "random", **changes})


def encoder(card: Mapping[str, Any] = SMALL_VIT, **changes: Any) -> Any:
    return build_encoder(entry(card, **changes), threads=1, device="cpu")


def checkpoint(path: Path, card: Mapping[str, Any] = SMALL_VIT, seed: int = 3, **changes: Any) -> Path:
    state = TimmEncoder.build(full_card(card), seed).state_dict()
    state |= changes
    state = {k: v for k, v in state.items() if v is not None}
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def normalised(tiles: np.ndarray, card: Mapping[str, Any]) -> Any:
    images = (tiles / 255 - np.array(card["mean"])) / np.array(card["std"])
    return torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "small", "heads", "patch", "prefix"),
    [
        ("random_vit_tiny", {"depth": 2, "img_size": 64}, 3, 16, 1),
        ("uni", {"depth": 2, "img_size": 64, "embed_dim": 64, "num_heads": 4}, 4, 16, 1),
        ("uni2_h", {"depth": 2, "img_size": 56, "embed_dim": 96, "num_heads": 6}, 6, 14, 9),
    ],
)
@pytest.mark.parametrize("pooling", ["cls", "mean", "cls_mean"])
def test_forward_is_the_plain_restatement(
    tmp_path: Path, name: str, small: dict[str, Any], heads: int, patch: int, prefix: int, pooling: str
) -> None:
    base = CARDS[name]
    size, dim = small["img_size"], small.get("embed_dim", 192)
    card = {**base, "arch_kwargs": {**base["arch_kwargs"], **small}, "input_px": size, "pooling": pooling}
    card["dim"] = 2 * dim if pooling == "cls_mean" else dim
    model = TimmEncoder.build(full_card(card), 3)
    # Weights that matter: initial biases and layer scales are 0 and 1e-5.
    state = {k: torch.randn_like(v) * 0.2 for k, v in model.state_dict().items()}
    torch.save(state, tmp_path / "w.bin")
    tiles = TILES[:3, :size, :size]
    found = encoder(card, weights=str(tmp_path / "w.bin")).encode(tiles, 0.5)
    tokens = plain.vit(state, normalised(tiles, card), heads, patch)
    first, patches = tokens[:, 0], tokens[:, prefix:].mean(1)
    expected = {"cls": first, "mean": patches, "cls_mean": torch.cat([first, patches], 1)}[pooling]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_uni_has_the_official_keys_and_sizes() -> None:
    with torch.device("meta"):
        uni, uni2 = (TimmEncoder.build(CARDS[name], 0).state_dict() for name in ("uni", "uni2_h"))
    assert uni["pos_embed"].shape == (1, 197, 1024)
    assert {"cls_token", "blocks.23.ls2.gamma", "blocks.0.attn.qkv.weight", "norm.bias"} <= set(uni)
    assert not any(k.startswith(("head", "fc_norm")) for k in uni)
    assert uni2["reg_token"].shape == (1, 8, 1536)
    assert uni2["pos_embed"].shape == (1, 256, 1536)
    assert uni2["blocks.0.mlp.fc1.weight"].shape == (8192, 1536)
    assert uni2["blocks.0.mlp.fc2.weight"].shape == (1536, 4096)
    assert "blocks.24.norm1.weight" not in uni2
    # Published: 303 and 681 million parameters.
    assert sum(v.numel() for v in uni.values()) == pytest.approx(303.3e6, rel=0.002)
    assert sum(v.numel() for v in uni2.values()) == pytest.approx(681e6, rel=0.003)


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_conv_nets_load_their_whole_checkpoint_and_pool_their_map(tmp_path: Path, name: str) -> None:
    card = CARDS[name]
    path = checkpoint(tmp_path / "m.safetensors", card)
    built = encoder(card, weights=str(path), upsample=True, batch_size=2)
    tiles = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
    found = built.encode(tiles, 0.5)
    assert found.shape == (3, 1024)
    model = TimmEncoder.build(card, 3).eval()
    grabbed = {}
    layer = model.layer3 if name == "resnet50" else model.features
    layer.register_forward_hook(lambda _m, _i, out: grabbed.update(map=out))
    with torch.inference_mode():
        model(normalised(tiles, card))
    np.testing.assert_allclose(found, grabbed["map"].mean((2, 3)).numpy(), rtol=1e-3, atol=1e-4)


def test_batch_order_and_size_do_not_matter() -> None:
    whole = encoder(batch_size=7).encode(TILES, 0.5)
    assert whole.dtype == np.float32
    order = np.array([3, 1, 0, 6, 2, 5, 4])
    np.testing.assert_allclose(encoder(batch_size=2).encode(TILES[order], 0.5), whole[order], atol=1e-5)
    assert encoder().encode(TILES[:0], 0.5).shape == (0, 48)


def test_seed_decides_random_weights_and_nothing_else_moves() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, same, other = encoder(seed=1), encoder(seed=1), encoder(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.weights_sha256 == same.weights_sha256 != other.weights_sha256
    assert (one.revision, one.precision, one.device) == ("random-seed-1", "float32", "cpu")
    np.testing.assert_array_equal(one.encode(TILES, 0.5), same.encode(TILES, 0.5))
    assert not np.allclose(one.encode(TILES, 0.5), other.encode(TILES, 0.5))


@pytest.mark.parametrize("end", ["safetensors", "bin", "pth"])
def test_weights_from_a_file(tmp_path: Path, end: str) -> None:
    path = checkpoint(tmp_path / f"w.{end}")
    built = encoder(weights=str(path))
    assert (built.weights_sha256, built.revision) == (sha256_file(path), "local")
    np.testing.assert_array_equal(built.encode(TILES, 0.5), encoder(seed=3).encode(TILES, 0.5))


def test_state_dict_under_a_key_and_a_prefix(tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in TimmEncoder.build(full_card(SMALL_VIT), 3).state_dict().items()}
    torch.save({"epoch": 3, "teacher": state}, tmp_path / "w.pth")
    card = {**SMALL_VIT, "checkpoint": {"file": "w.pth", "key": "teacher", "prefix": "module."}}
    np.testing.assert_array_equal(
        encoder(card, weights=str(tmp_path / "w.pth")).encode(TILES, 0.5), encoder(seed=3).encode(TILES, 0.5)
    )
    with pytest.raises(InputError, check=has_code("weights-no-tensors")):
        encoder(weights=str(tmp_path / "w.pth"))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    half = dict.fromkeys(
        [k for k in TimmEncoder.build(full_card(SMALL_VIT), 0).state_dict() if k.startswith("blocks.1")]
    )
    with pytest.raises(InputError, check=has_code("weights-keys")):
        encoder(weights=str(checkpoint(tmp_path / "half.bin", **half)))
    extra = {"head.weight": torch.zeros(2), "rubbish": torch.zeros(1)}
    with pytest.raises(InputError, check=has_code("weights-keys")):
        encoder(weights=str(checkpoint(tmp_path / "extra.bin", **extra)))
    with pytest.raises(InputError, check=has_code("weights-keys")):
        encoder(weights=str(checkpoint(tmp_path / "shape.bin", **{"norm.bias": torch.zeros(3)})))
    with pytest.raises(InputError, check=has_code("weights-keys")):
        encoder(weights=str(checkpoint(tmp_path / "resnet.bin", CARDS["resnet50"])))
    with pytest.raises(InputError, check=has_code("weights-nan")):
        encoder(weights=str(checkpoint(tmp_path / "nan.bin", **{"norm.bias": torch.full((48,), math.nan)})))
    with pytest.raises(InputError, check=has_code("weights-missing")):
        encoder(weights=str(tmp_path / "none.bin"))


@pytest.mark.parametrize("end", ["safetensors", "bin"])
def test_weights_cut_short(tmp_path: Path, end: str) -> None:
    path = checkpoint(tmp_path / f"w.{end}")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, check=has_code("weights-unreadable")):
        encoder(weights=str(path))


class Bomb:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return (Path.touch, (self.flag,))


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    flag = tmp_path / "it_ran"
    torch.save({"a": Bomb(flag)}, tmp_path / "zip.bin")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(flag)))
    for name in ("zip.bin", "raw.pth"):
        with pytest.raises(InputError, check=has_code("weights-pickle")) as error:
            encoder(weights=str(tmp_path / name))
        # The library's own text tells how to read it all the same.
        assert "weights_only" not in str(error.value)
    assert not flag.exists()


def test_tiles_of_another_size_are_resized_as_pillow_does() -> None:
    y, x = np.mgrid[:150, :150]
    tile = np.stack([128 + 90 * np.sin(x / 9), 128 + 90 * np.cos(y / 7), (x + y) * 0.8], 2).astype(np.uint8)
    built = encoder()
    small = np.asarray(Image.fromarray(tile).resize((64, 64), Image.Resampling.BICUBIC))
    found = built._transform(torch.from_numpy(tile[None])) * built._std + built._mean
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy() * 255, small, atol=2)


def test_tiles_smaller_than_the_input_stop_unless_asked_for() -> None:
    with pytest.raises(InputError, check=has_code("encoder-tiles-small")):
        encoder().encode(TILES[:, :48, :48], 0.5)
    assert encoder(upsample=True).encode(TILES[:, :48, :48], 0.5).shape == (7, 48)


def test_card_that_lies_stops() -> None:
    with pytest.raises(InputError, check=has_code("encoder-dim")):
        encoder({**SMALL_VIT, "dim": 77}).encode(TILES, 0.5)
    with pytest.raises(InputError, check=has_code("encoder-architecture")):
        encoder({**SMALL_VIT, "arch": "vit_of_nowhere"})
    with pytest.raises(InputError, check=has_code("encoder-architecture")):
        encoder({**SMALL_VIT, "arch_kwargs": {"no_such_argument": 1}})
    with pytest.raises(InputError, check=has_code("encoder-architecture")):
        encoder({**SMALL_VIT, "arch_kwargs": {"mlp_layer": "NoSuchLayer"}})


# The hub, without a network ------------------------------------------------------------------------------------


def fake_hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[Any, ...]]:
    import huggingface_hub

    asked = []

    def download(repo: str, file: str, *, revision: str | None = None) -> str:
        asked.append((repo, file, revision))
        if isinstance(answer, BaseException):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def refusal(kind: str, status: int) -> BaseException:
    from huggingface_hub import errors

    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return getattr(errors, kind)("no", response=response)


def test_hub_gets_id_file_and_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_hub(monkeypatch, checkpoint(tmp_path / "model.safetensors"))
    built = encoder(weights="hub")
    assert asked == [("nobody/nothing", "model.safetensors", "0123abc")]
    assert built.revision == "0123abc"
    assert built.weights_sha256 == sha256_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("kind", "status"), [("GatedRepoError", 403), ("RepositoryNotFoundError", 401), ("HfHubHTTPError", 403)]
)
@pytest.mark.parametrize("token", ["", "hf_x"])
def test_no_access_names_page_and_variable(monkeypatch: pytest.MonkeyPatch, kind: str, status: int, token: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    fake_hub(monkeypatch, refusal(kind, status))
    with pytest.raises(InputError, check=has_code("hub-access")) as caught:
        weights.fetch_from_hub(CARDS["uni"])
    assert "https://huggingface.co/MahmoodLab/UNI" in str(caught.value)
    assert ("HF_TOKEN is set" if token else "HF_TOKEN is empty") in str(caught.value)


def test_wrong_revision_hub_down_and_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    fake_hub(monkeypatch, refusal("RevisionNotFoundError", 404))
    with pytest.raises(InputError, check=has_code("hub-revision")):
        weights.fetch_from_hub(CARDS["uni"])
    fake_hub(monkeypatch, refusal("HfHubHTTPError", 503))
    with pytest.raises(InputError, check=has_code("hub-answer")):
        weights.fetch_from_hub(CARDS["uni"])
    fake_hub(monkeypatch, errors.LocalEntryNotFoundError("gone"))
    with pytest.raises(InputError, check=has_code("no-network")):
        weights.fetch_from_hub(CARDS["uni"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, check=has_code("hub-offline")):
        weights.fetch_from_hub(CARDS["uni"])
    with pytest.raises(InputError, check=has_code("card-file")):
        weights.fetch_from_hub(CARDS["random_vit_tiny"])


def test_a_cached_gated_model_loads_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own cache layout, no network, no token."""
    from huggingface_hub import constants

    folder = tmp_path / "models--nobody--nothing"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "0123abc").write_text(commit)
    checkpoint(folder / "snapshots" / commit / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    import huggingface_hub.file_download as client

    real = client.hf_hub_download
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *a, **k: real(*a, **k, cache_dir=str(tmp_path)), raising=True
    )
    np.testing.assert_array_equal(encoder(weights="hub").encode(TILES, 0.5), encoder(seed=3).encode(TILES, 0.5))


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: bf16 autocast is measured where there is one")
def test_gpu_agrees_with_cpu() -> None:
    for dtype, tolerance in (("float32", 1e-3), ("bfloat16", 5e-2)):
        card = {**SMALL_VIT, "dtype": dtype}
        cpu = encoder(card).encode(TILES, 0.5)
        built = build_encoder(entry(card), threads=1, device="cuda")
        assert built.precision == dtype
        assert np.abs(built.encode(TILES, 0.5) - cpu).max() < tolerance * np.abs(cpu).max()
