"""Embeddings read back: by row, aligned by key, refused where they are stale or foreign; and the cards."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from test_embeddings import STAIN, TILES, Toy

from encoder_specs import full_spec
from error_codes import has_code
from histoloom.embeddings import artefact, open_embeddings
from histoloom.embeddings.artefact import write_embeddings
from histoloom.embeddings.cards import full_card, load_cards
from histoloom.embeddings.sections import PartWriter, load_part, open_sections
from histoloom.errors import InputError
from histoloom.kinds import ENCODERS
from histoloom.schemas import check, load_schema


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


# Reading and aligning -------------------------------------------------------------------------------------------------


def write(path: Path, keys: list[tuple[str, str]], cohort: str = "toy", **changes: Any) -> Path:
    n = len(keys)
    facts: dict[str, Any] = {"cohort": cohort, "card": {"name": "c"}, "weights_sha256": "w", "dim": 2}
    features = changes.pop("features", np.arange(2 * n, dtype=np.float32).reshape(n, 2))
    facts |= {"tiles_spec": TILES, "feature_names": None, "identity": {}} | changes
    write_embeddings(
        path,
        features=features,
        coords=np.zeros((n, 2)),
        sample=[k[0] for k in keys],
        obs_id=[k[1] for k in keys],
        metadata=facts,
    )
    return path


def obs(*keys: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(keys, columns=["cohort", "sample", "obs_id"])


def test_align_finds_every_key_in_any_order(tmp_path: Path) -> None:
    one = write(tmp_path / "1.h5", [("A", "1x1"), ("A", "1x2"), ("B", "1x1")])
    two = write(tmp_path / "2.h5", [("C", "9x9"), ("A", "1x1")], cohort="other")
    reader = open_embeddings([one, two])
    wanted = obs(("other", "A", "1x1"), ("toy", "A", "1x2"), ("toy", "B", "1x1"), ("toy", "A", "1x1"))
    assert reader.align(wanted).tolist() == [4, 1, 2, 0]
    assert reader.align(wanted.astype("category")).tolist() == [4, 1, 2, 0]
    assert reader.align(wanted[:0]).tolist() == []
    with pytest.raises(InputError, check=has_code("embeddings-lacking")) as caught:
        reader.align(obs(("toy", "A", "1x1"), ("toy", "A", "5x5"), ("other", "B", "1x1")))
    assert "2 of 3" in str(caught.value)
    assert "toy/A/5x5, other/B/1x1" in str(caught.value)


def test_rows_of_many_batches_are_those_of_the_files_put_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = (3, 1, 0, 70, 5)
    parts = [rng.normal(size=(n, 2)).astype(np.float32) for n in sizes]
    paths = [
        write(tmp_path / f"{i}.h5", [(f"S{i}", str(k)) for k in range(n)], features=part)
        for i, (n, part) in enumerate(zip(sizes, parts, strict=True))
        if n
    ]
    together = np.concatenate(parts)
    reader = open_embeddings(paths)
    assert (len(reader), reader.dim) == (79, 2)
    np.testing.assert_array_equal(reader.rows(), together)
    for index in ([], [78], [0, 0, 78, 3, 4, 0], rng.permutation(79), rng.integers(0, 79, 500)):
        rows = reader.rows(index)
        np.testing.assert_array_equal(rows, together[np.asarray(index, int)])
        assert (rows.dtype, rows.flags.writeable) == (np.float32, True)
    for index in ([-1], [79]):
        with pytest.raises(IndexError):
            reader.rows(index)


def test_a_few_rows_cost_a_few_rows(tmp_path: Path) -> None:
    n, dim = 40_000, 512
    keys = [("A", str(i)) for i in range(n)]
    path = write(tmp_path / "1.h5", keys, features=np.ones((n, dim), np.float32), dim=dim)
    reader = open_embeddings([path])
    tracemalloc.start()
    reader.rows(np.arange(0, n, 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * dim * 4 / 20


def test_reading_stops_at_what_does_not_belong(tmp_path: Path) -> None:
    def refused(code: str, *paths: Path, **asked: Any) -> str:
        with pytest.raises(InputError, check=has_code(code)) as caught:
            open_embeddings(paths, **asked)
        return str(caught.value)

    one = write(tmp_path / "1.h5", [("A", "1x1")])
    assert "toy/A/1x1" in refused("embeddings-twice", one, one)
    assert "size_px 32 instead of 48" in refused("embeddings-tiles", one, tiles_spec={**TILES, "size_px": 48})
    other = write(tmp_path / "o.h5", [("B", "1x1")], tiles_spec={**TILES, "um_per_px": 0.5})
    assert "o.h5" in refused("embeddings-tiles", one, other)
    weights = write(tmp_path / "w.h5", [("B", "1x1")], weights_sha256="v")
    assert "w.h5: has other weights" in refused("embeddings-weights", one, weights)
    tokens = write(tmp_path / "t.h5", [("B", "1x1")], tokens={"mode": "exact", "k": 2})
    refused("embeddings-tokens", one, tokens)
    assert "name 'c' instead of 'd'" in refused("embeddings-card", one, card={"name": "d"})
    refused("embeddings-missing", tmp_path / "none.h5")
    refused("embeddings-none")
    (tmp_path / "bad.h5").write_bytes(b"not hdf5")
    refused("embeddings-damaged", tmp_path / "bad.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    refused("embeddings-damaged", tmp_path / "empty.h5")
    with h5py.File(write(tmp_path / "short.h5", [("A", "1x1"), ("A", "1x2")]), "a") as handle:
        del handle["obs_id"]
        handle["obs_id"] = np.array(["1x1"], dtype=object)
    refused("embeddings-damaged", tmp_path / "short.h5")


def test_rows_that_are_not_finite_stop_when_they_are_read(tmp_path: Path) -> None:
    features = np.array([[1, 2], [np.nan, 0], [3, np.inf]], np.float32)
    reader = open_embeddings([write(tmp_path / "n.h5", [("A", "1x1"), ("A", "2x1"), ("B", "1x1")], features=features)])
    np.testing.assert_array_equal(reader.rows([0]), [[1, 2]])
    for index, key in ((None, "toy/A/2x1, toy/B/1x1"), ([0, 2], "toy/B/1x1")):
        with pytest.raises(InputError, check=has_code("embeddings-nan")) as caught:
            reader.rows(index)
        assert key in str(caught.value)


@pytest.mark.parametrize("lost", [1, 100, 3000])
def test_a_cut_file_stops(tmp_path: Path, lost: int) -> None:
    path = write(tmp_path / "1.h5", [("A", str(i)) for i in range(500)])
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(InputError, check=has_code("embeddings-damaged")):
        open_embeddings([path])


def test_reading_imports_neither_torch_nor_anndata() -> None:
    code = (
        "import sys; import histoloom.embeddings.artefact, h5py\n"
        "heavy = {'torch', 'anndata', 'scanpy', 'timm', 'PIL', 'tifffile', 'openslide'} & set(sys.modules)\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    environment = {"PYTHONPATH": str(Path(artefact.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_table_without_a_kept_tile_or_without_a_spec_stops(toy: Toy) -> None:
    frame = pd.read_parquet(toy.folder / "S1.parquet")
    frame.to_parquet(toy.folder / "S1.parquet")
    with pytest.raises(InputError, check=has_code("tiles-no-spec")):
        open_sections("toy", toy.paths("h5ad"), toy.paths("png"), toy.paths("parquet"), TILES)


def test_a_part_of_another_length_is_not_taken(toy: Toy, tmp_path: Path) -> None:
    (section,) = open_sections("toy", *(toy.paths(e, ("S1",)) for e in ("h5ad", "png", "parquet")), TILES)
    writer = PartWriter(tmp_path, section, "id", 3)
    assert not writer.add(np.ones((6, 3), np.float32))
    assert load_part(tmp_path, section, "id", 3) is None
    assert writer.add(np.full((8, 3), 2, np.float32))
    np.testing.assert_array_equal(load_part(tmp_path, section, "id", 3)[[0, 5, 6, 13], 0], [1, 1, 2, 2])  # type: ignore[index]
    assert load_part(tmp_path, section, "id", 3) is not None
    assert load_part(tmp_path, section, "id", 4) is None
    assert load_part(tmp_path, section, "other", 3) is None


# Cards ----------------------------------------------------------------------------------------------------------------


def test_every_card_is_valid_and_its_kind_exists() -> None:
    cards = load_cards()
    assert {"stain_texture", "random_vit_tiny", "uni", "uni2_h", "resnet50", "densenet121"} <= set(cards)
    for card in cards.values():
        assert card["kind"] in ENCODERS
        assert card["licence"]
        assert card["citation"]
        assert card["proven"] or card["unsure"], f"{card['name']}: an unproven card says what is unsure"
        assert card["default_weights"] != "hub" or (card["hub_id"] and card["revision"] and card["checkpoint"]["file"])


def test_defaults_of_an_encoder_and_bad_cards() -> None:
    spec = full_spec({"card": load_cards()["random_vit_tiny"], "tiles_spec": {}, "name": "r"})
    assert (spec.weights, spec.batch_size, spec.seed) == ("random", "auto", 0)
    entry = {"card": "uni", "tiles": "t"}
    check(entry, load_schema("encoder"), "here")
    assert full_spec({**entry, "card": load_cards()["uni"], "tiles_spec": {}}).weights == "hub"
    with pytest.raises(InputError, check=has_code("encoder-weights-hub")):
        full_spec({"card": load_cards()["random_vit_tiny"], "tiles_spec": {}, "name": "r", "weights": "hub"})
    with pytest.raises(InputError, check=has_code("schema-unknown-key"), match="'arhc'"):
        full_card({**STAIN, "arhc": 1})
    # A card without weights ignores what the entry says.
    assert full_spec({"card": STAIN, "tiles_spec": {}, "name": "s", "weights": "hub"}).weights == "none"
