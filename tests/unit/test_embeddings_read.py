"""Embeddings read back: aligned by key, refused where they are stale or foreign; and the cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from test_embeddings import STAIN, TILES, Toy

from histoloom.config import check, load_schema
from histoloom.embeddings import read_embeddings
from histoloom.embeddings.artefact import write_embeddings
from histoloom.embeddings.cards import full_card, full_spec, load_cards
from histoloom.embeddings.sections import PartWriter, load_part, open_sections
from histoloom.errors import InputError
from histoloom.kinds import ENCODERS


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


# Reading and aligning -------------------------------------------------------------------------------------------------


def write(path: Path, keys: list[tuple[str, str]], cohort: str = "toy", **changes: Any) -> Path:
    n = len(keys)
    facts: dict[str, Any] = {"cohort": cohort, "card": {"name": "c"}, "weights_sha256": "w", "dim": 2}
    facts |= {"tiles_spec": TILES, "feature_names": None, "identity": {}} | changes
    features = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    write_embeddings(
        path,
        features=changes.pop("features", features),
        coords=np.zeros((n, 2)),
        sample=[k[0] for k in keys],
        obs_id=[k[1] for k in keys],
        metadata={k: v for k, v in facts.items() if k != "features"},
    )
    return path


def test_align_finds_every_key_in_any_order(tmp_path: Path) -> None:
    one = write(tmp_path / "1.h5", [("A", "1x1"), ("A", "1x2"), ("B", "1x1")])
    two = write(tmp_path / "2.h5", [("C", "9x9")])
    found = read_embeddings([one, two])
    assert found.align(["C", "A", "B", "A"], ["9x9", "1x2", "1x1", "1x1"]).tolist() == [3, 1, 2, 0]
    with pytest.raises(InputError, match=r"2 of 3 observations have no embedding: A/5x5, Z/1x1"):
        found.align(["A", "A", "Z"], ["1x1", "5x5", "1x1"])


def test_the_same_sample_name_in_two_cohorts_needs_the_cohort(tmp_path: Path) -> None:
    one = write(tmp_path / "1.h5", [("A", "1x1")])
    two = write(tmp_path / "2.h5", [("A", "1x1")], cohort="other")
    found = read_embeddings([one, two])
    assert found.align(["A", "A"], ["1x1", "1x1"], ["other", "toy"]).tolist() == [1, 0]
    with pytest.raises(InputError, match=r"appear twice: A/1x1.*give the cohorts"):
        found.align(["A"], ["1x1"])


def test_reading_stops_at_what_does_not_belong(tmp_path: Path) -> None:
    one = write(tmp_path / "1.h5", [("A", "1x1")])
    with pytest.raises(InputError, match="appear twice: toy/A/1x1"):
        read_embeddings([one, one])
    with pytest.raises(InputError, match=r"1\.h5: was made from other tiles than asked for.*size_px 32 instead of 48"):
        read_embeddings([one], tiles_spec={**TILES, "size_px": 48})
    other = write(tmp_path / "o.h5", [("B", "1x1")], tiles_spec={**TILES, "um_per_px": 0.5})
    with pytest.raises(InputError, match=r"o\.h5: was made from other tiles"):
        read_embeddings([one, other])
    weights = write(tmp_path / "w.h5", [("B", "1x1")], weights_sha256="v")
    with pytest.raises(InputError, match=r"w\.h5: differs in weights_sha256"):
        read_embeddings([one, weights])
    with pytest.raises(InputError, match="another card: name 'c' instead of 'd'"):
        read_embeddings([one], card={"name": "d"})
    nan = write(tmp_path / "n.h5", [("A", "1x1"), ("A", "2x1")], features=np.array([[1, 2], [np.nan, 0]], np.float32))
    with pytest.raises(InputError, match=r"1 tiles have NaN, the first is A/2x1"):
        read_embeddings([nan])
    with pytest.raises(InputError, match="missing"):
        read_embeddings([tmp_path / "none.h5"])
    with pytest.raises(InputError, match="no file was given"):
        read_embeddings([])
    (tmp_path / "bad.h5").write_bytes(b"not hdf5")
    with pytest.raises(InputError, match="no embedding"):
        read_embeddings([tmp_path / "bad.h5"])
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(InputError, match="no embedding"):
        read_embeddings([tmp_path / "empty.h5"])


def test_a_table_without_a_kept_tile_or_without_a_spec_stops(toy: Toy) -> None:
    frame = pd.read_parquet(toy.folder / "S1.parquet")
    frame.to_parquet(toy.folder / "S1.parquet")
    with pytest.raises(InputError, match="no tile spec"):
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
    assert (spec["weights"], spec["batch_size"], spec["seed"]) == ("random", "auto", 0)
    entry = {"card": "uni", "tiles": "t"}
    check(entry, load_schema("encoder"), "here")
    assert full_spec({**entry, "card": load_cards()["uni"], "tiles_spec": {}})["weights"] == "hub"
    with pytest.raises(InputError, match="no weights on the hub"):
        full_spec({"card": load_cards()["random_vit_tiny"], "tiles_spec": {}, "name": "r", "weights": "hub"})
    with pytest.raises(InputError, match="unknown key 'arhc'"):
        full_card({**STAIN, "arhc": 1})
    # A card without weights ignores what the entry says.
    assert full_spec({"card": STAIN, "tiles_spec": {}, "name": "s", "weights": "hub"})["weights"] == "none"
