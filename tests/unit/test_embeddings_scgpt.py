"""scGPT without its weights or its package: official key names, a plain forward pass, and draws that repeat."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from PIL import Image
from test_embeddings import TILES, Toy

import histoloom.torch_compat  # noqa: F401
from encoder_specs import full_spec
from error_codes import has_code
from histoloom.embeddings import open_embeddings
from histoloom.embeddings.cards import build_encoder, load_cards
from histoloom.embeddings.scgpt import bin_values, rename, scgpt_model
from histoloom.errors import InputError
from histoloom.genes import GeneMatcher
from histoloom.identity import make_identity

torch = pytest.importorskip("torch")
import plain_encoders as plain  # noqa: E402

CARD = {**load_cards()["scgpt"], "dim": 16, "args": {"bins": 51, "max_length": 24, "min_shared_genes": 20}}
SETTINGS = {
    "embsize": 16,
    "nheads": 4,
    "d_hid": 20,
    "nlayers": 2,
    "pad_token": "<pad>",
    "pad_value": -2,
    "dropout": 0.2,
}
BY_NAME = GeneMatcher(None)
GENES = [f"G{i}" for i in range(60)]
VOCAB = {"<pad>": 0, "<cls>": 1, "<eoc>": 2, **{f"G{i}": i + 3 for i in range(50)}}


def shapes(width: int, hidden: int, layers: int, tokens: int, *, flash: bool = True) -> plain.Shapes:
    """Names of a published checkpoint, trained with flash attention, heads that the embedding has no use for included."""
    found: plain.Shapes = {"encoder.embedding.weight": (tokens, width), "flag_encoder.weight": (2, width)}
    found |= plain.pair("encoder.enc_norm", width) | plain.pair("value_encoder.norm", width)
    found |= plain.pair("value_encoder.linear1", width, 1) | plain.pair("value_encoder.linear2", width, width)
    for i in range(layers):
        p = f"transformer_encoder.layers.{i}"
        for end, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
            found[f"{p}.self_attn.Wqkv.{end}" if flash else f"{p}.self_attn.in_proj_{end}"] = shape
        found |= plain.pair(f"{p}.self_attn.out_proj", width, width)
        found |= plain.pair(f"{p}.linear1", hidden, width) | plain.pair(f"{p}.linear2", width, hidden)
        found |= plain.pair(f"{p}.norm1", width) | plain.pair(f"{p}.norm2", width)
    return found | plain.pair("decoder.fc.0", width, width) | {"mvc_decoder.W.weight": (width, width)}


def folder(path: Path, seed: int = 0, **changes: Any) -> Path:
    path.mkdir(exist_ok=True)
    state = plain.random_state(shapes(16, 20, 2, len(VOCAB)), seed)
    torch.save({**state, **changes}, path / "best_model.pt")
    (path / "args.json").write_text(json.dumps(SETTINGS))
    (path / "vocab.json").write_text(json.dumps(VOCAB))
    return path


def encoder(path: Path, **changes: Any) -> Any:
    card = changes.pop("card", CARD)
    spec = {"card": card, "tiles_spec": {}, "name": "g", "weights": str(path), **changes}
    return build_encoder(full_spec(spec), threads=1, device="cpu")


def counts(n: int = 9, rate: float = 1.0) -> sp.csr_matrix:
    return sp.csr_matrix(np.random.default_rng(1).poisson(rate, (n, 60)).astype(np.int32))


def plain_forward(state: plain.State, genes: list[int], values: list[float]) -> np.ndarray:
    def line(x: Any, key: str) -> Any:
        return plain.linear(x, state, key)

    v = torch.tensor(values, dtype=torch.float32).clamp(max=512)[:, None]
    v = line(torch.relu(line(v, "value_encoder.linear1")), "value_encoder.linear2")
    x = plain.layer_norm(state["encoder.embedding.weight"][genes], state, "encoder.enc_norm", 1e-5)
    x = (x + plain.layer_norm(v, state, "value_encoder.norm", 1e-5))[None]
    for i in range(2):
        p = f"transformer_encoder.layers.{i}"
        qkv = x @ state[f"{p}.self_attn.Wqkv.weight"].T + state[f"{p}.self_attn.Wqkv.bias"]
        mixed = line(plain.attend(*qkv.chunk(3, -1), 4), f"{p}.self_attn.out_proj")
        x = plain.layer_norm(x + mixed, state, f"{p}.norm1", 1e-5)
        x = plain.layer_norm(x + line(torch.relu(line(x, f"{p}.linear1")), f"{p}.linear2"), state, f"{p}.norm2", 1e-5)
    state_of_cls = x[0, 0]
    return (state_of_cls / math.sqrt(float((state_of_cls**2).sum()))).numpy()


def test_a_checkpoint_under_the_official_names_gives_the_plain_forward(tmp_path: Path) -> None:
    built = encoder(folder(tmp_path / "m"), card={**CARD, "args": {**CARD["args"], "max_length": 1200}})
    x = counts()
    found = built.encode_counts(x, GENES, [f"c{i}" for i in range(9)], BY_NAME)
    state = torch.load(tmp_path / "m" / "best_model.pt", weights_only=True)
    for i in range(9):
        row = x[i].toarray()[0]
        genes = [j for j in range(50) if row[j] > 0]
        tokens, values = built._cell(x[i], np.array([VOCAB.get(g, -1) for g in GENES]), f"c{i}")
        assert tokens.tolist() == [1, *(j + 3 for j in genes)]
        assert values[0] == -2
        np.testing.assert_allclose(found[i], plain_forward(state, tokens.tolist(), values.tolist()), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert found.std(axis=0).mean() > 1e-3


def test_the_full_architecture_has_the_names_and_shapes_of_the_checkpoint() -> None:
    published = {"embsize": 512, "nheads": 8, "d_hid": 512, "nlayers": 12}
    with torch.device("meta"):
        own = scgpt_model(published, 60697).state_dict()
        given = rename({k: torch.empty(v) for k, v in shapes(512, 512, 12, 60697).items()})
    wanted = {k: tuple(v.shape) for k, v in given.items() if not k.startswith(("decoder", "mvc", "flag"))}
    assert wanted == {k: tuple(v.shape) for k, v in own.items()}


def test_bins_are_the_cells_own_quantiles_and_ties_are_drawn_between_equal_edges() -> None:
    values = np.arange(1.0, 501)
    found = bin_values(values, 51, np.random.default_rng(0))
    assert (np.diff(found) >= 0).all()
    assert set(found) <= set(range(51))
    np.testing.assert_allclose(np.bincount(found.astype(int))[2:-1], 500 / 49, atol=1.01)
    # A third of ones: they spread over the bins whose edges are all 1.
    tied = bin_values(np.r_[np.ones(2000), np.arange(2.0, 4002)], 51, np.random.default_rng(0))
    ones = tied[:2000]
    assert ones.min() >= 0
    assert 15 <= ones.max() <= 18
    assert len(set(ones)) >= 15
    assert tied[2000:].min() >= ones.max() - 1
    assert bin_values(np.zeros(0), 51, np.random.default_rng(0)).shape == (0,)


def test_draws_follow_the_seed_and_the_cell_not_order_or_batch(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    x, keys = counts(12, 3.0), [f"c{i}" for i in range(12)]
    found = encoder(path).encode_counts(x, GENES, keys, BY_NAME)
    assert len(encoder(path)._cell(x[0], np.arange(60) % 50 + 3, "c0")[0]) == 24
    np.testing.assert_allclose(encoder(path, batch_size=1).encode_counts(x, GENES, keys, BY_NAME), found, atol=1e-5)
    back = encoder(path).encode_counts(x[::-1], GENES, keys[::-1], BY_NAME)[::-1]
    np.testing.assert_allclose(back, found, atol=1e-5)
    # The order of the genes' columns changes nothing about which cell it is, but draws may fall on other genes.
    again = encoder(path).encode_counts(x, GENES, keys, BY_NAME)
    np.testing.assert_array_equal(again, found)
    assert np.abs(encoder(path, seed=1).encode_counts(x, GENES, keys, BY_NAME) - found).max() > 1e-3


def test_empty_cells_and_unknown_genes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    built = encoder(folder(tmp_path / "m"))
    x = counts(3).tolil()
    x[1] = 0
    x[2, :50] = 0
    found = built.encode_counts(x.tocsr(), GENES, ["a", "b", "c"], BY_NAME)
    assert "50 of 60 genes are in the vocabulary, 2 cells hold none" in caplog.text
    np.testing.assert_allclose(found[1], found[2], atol=1e-6)
    assert np.isfinite(found).all()
    with pytest.raises(InputError, check=has_code("scgpt-genes")):
        built.encode_counts(counts(), [f"ENSG{i}" for i in range(60)], ["a"] * 9, BY_NAME)
    with pytest.raises(InputError, check=has_code("scgpt-genes")):
        built.encode_counts(counts()[:, :19], GENES[:19], ["a"] * 9, BY_NAME)


def test_a_folder_that_is_not_whole_stops(tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("scgpt-folder")):
        encoder(tmp_path)
    path = folder(tmp_path / "nan", **{"encoder.enc_norm.bias": torch.full((16,), math.nan)})
    with pytest.raises(InputError, check=has_code("weights-nan")):
        encoder(path)
    path = folder(tmp_path / "more", rubbish=torch.zeros(1))
    with pytest.raises(InputError, check=has_code("weights-keys")):
        encoder(path)
    path = folder(tmp_path / "vocab")
    (path / "vocab.json").write_text(json.dumps({k: v for k, v in VOCAB.items() if k != "G7"}))
    with pytest.raises(InputError, check=has_code("weights-keys")):
        encoder(path)
    (path / "vocab.json").write_text("{cut sho")
    with pytest.raises(InputError, check=has_code("scgpt-json")):
        encoder(path)
    with pytest.raises(InputError, check=has_code("encoder-weights-hub")):
        full_spec({"card": CARD, "tiles_spec": {}, "name": "g"})
    with pytest.raises(InputError, check=has_code("encoder-dim")):
        encoder(folder(tmp_path / "m"), card={**CARD, "dim": 512})


def test_the_artefact_is_that_of_any_encoder(tmp_path: Path) -> None:
    toy = Toy(tmp_path, ("S1", "S2"), n=6)
    for number, name in enumerate(toy.names):
        data = ad.read_h5ad(tmp_path / f"{name}.h5ad")
        facts = json.loads(data.uns["histoloom"])
        facts["identity"] = make_identity("samples", {"name": name, "counts": True}, {})
        full = ad.AnnData(counts(data.n_obs, 1 + number), obs=data.obs, var=pd.DataFrame(index=GENES))
        full.obsm["spatial"], full.uns["histoloom"] = data.obsm["spatial"], json.dumps(facts)
        full.write_h5ad(tmp_path / f"{name}.h5ad")
        toy.cut(name)
    # No pixel is read.
    for name in toy.names:
        Image.new("RGB", (200, 160)).save(tmp_path / f"{name}.png")
    spec = {"card": CARD, "tiles_spec": TILES, "name": "g", "weights": str(folder(tmp_path / "m"))}
    path = toy.embed("g.h5", spec=spec)
    found = open_embeddings([path], tiles_spec=TILES)
    built = encoder(tmp_path / "m")
    data = ad.read_h5ad(tmp_path / "S2.h5ad")
    mine = found.obs["sample"] == "S2"
    rows = data.obs_names.get_indexer(found.obs["obs_id"][mine])
    expected = built.encode_counts(data.X[rows], GENES, [f"S2/{i}" for i in found.obs["obs_id"][mine]], BY_NAME)
    np.testing.assert_allclose(found.rows()[mine], expected, atol=1e-6)
    assert toy.embed("again.h5", spec=spec).read_bytes() == path.read_bytes()
    toy.write_sample("S1", np.random.default_rng(0).uniform(20, 140, (6, 2)))
    toy.cut("S1")
    with pytest.raises(InputError, check=has_code("encoder-counts")):
        toy.embed("none.h5", spec=spec)


def test_old_symbols_and_ids_meet_the_vocabulary_through_a_table(tmp_path: Path) -> None:
    path, seen = folder(tmp_path / "w"), counts()
    keys = [f"c{i}" for i in range(9)]
    # VOCAB knows G0 ... G49; the section calls half of them by older names and the others by ids with a version
    table = tmp_path / "hgnc.tsv"
    rows = [f"HGNC:{i}\tG{i}\tENSG{i:011d}\tOLD{i}\t" for i in range(60)]
    table.write_text("\n".join(["hgnc_id\tsymbol\tensembl_gene_id\tprev_symbol\talias_symbol", *rows]) + "\n")
    names = [f"OLD{i}" if i % 2 else f"ENSG{i:011d}.4" for i in range(60)]
    built = encoder(path)
    by_table = built.encode_counts(seen, names, keys, GeneMatcher(table))
    np.testing.assert_array_equal(by_table, built.encode_counts(seen, GENES, keys, BY_NAME))
    with pytest.raises(InputError, check=has_code("scgpt-genes")):
        built.encode_counts(seen, names, keys, BY_NAME)
