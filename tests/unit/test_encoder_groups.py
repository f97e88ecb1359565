"""A group of encoders: each file is that of a run alone, tiles are read once, and a killed job goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_embeddings import STAIN, TILES, Toy

import histoloom.torch_compat  # noqa: F401
from encoder_specs import full_spec
from error_codes import has_code
from histoloom.embeddings import embed_batch, open_embeddings, reader
from histoloom.embeddings.cards import load_cards
from histoloom.embeddings.run_encoders import LARGEST_BATCH, tiles_at_once
from histoloom.embeddings.stain_texture import StainTexture
from histoloom.embeddings.torch_encoder import TimmEncoder
from histoloom.errors import InputError
from histoloom.kinds import ENCODERS

SMALL = load_cards()["random_vit_tiny"]
SMALL |= {"arch_kwargs": {"img_size": 32, "num_classes": 0, "depth": 2, "embed_dim": 24, "num_heads": 3}}
SMALL |= {"input_px": 32, "dim": 48}
NET = {**SMALL, "name": "net", "arch": "resnet18", "arch_kwargs": {"num_classes": 0}, "pooling": "mean", "dim": 512}
SPECS: dict[str, dict[str, Any]] = {
    "vit": {"card": SMALL, "tiles_spec": TILES, "name": "vit", "batch_size": 7},
    "net": {"card": NET, "tiles_spec": TILES, "name": "net", "batch_size": 4, "seed": 3},
    "st": {"card": STAIN, "tiles_spec": TILES, "name": "st"},
}


def together(toy: Toy, *names: str, folder: str = "group", **changes: Any) -> dict[str, Path]:
    """Embed with a group of encoders; returns the files."""
    place = toy.folder / folder
    place.mkdir(exist_ok=True)
    threads = changes.pop("threads", 1)
    embed_batch(
        cohort="toy",
        batch="b0",
        samples=toy.paths("h5ad"),
        slides=toy.paths("png"),
        tiles=toy.paths("parquet"),
        specs=[full_spec(SPECS[name] | changes.get(name, {})) for name in names],
        out=[place / f"{name}.h5" for name in names],
        efficiency=[place / f"{name}.json" for name in names],
        scratch=[place / "scratch" / name for name in names],
        threads=threads,
        device="cpu",
    )
    return {name: place / f"{name}.h5" for name in names}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of tiles that were cut out of slides."""
    seen: list[int] = []
    read_tiles = reader.read_tiles

    def count(slide: Any, centres: np.ndarray, *arguments: Any, **more: Any) -> Any:
        seen.append(len(centres))
        return read_tiles(slide, centres, *arguments, **more)

    monkeypatch.setattr(reader, "read_tiles", count)
    return seen


def counted(monkeypatch: pytest.MonkeyPatch, cls: type, stop_at: int = -1) -> Callable[[], int]:
    """Count the tiles that an encoder gets, and stop it at a batch."""
    seen: list[int] = []
    method = "submit" if hasattr(cls, "submit") else "encode"
    original = getattr(cls, method)

    def count(self: Any, tiles: np.ndarray, um_per_px: Any) -> Any:
        seen.append(len(tiles))
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        return original(self, tiles, um_per_px)

    monkeypatch.setattr(cls, method, count)
    return lambda: sum(seen)


@pytest.mark.parametrize("threads", [1, 2])
def test_each_file_is_that_of_a_run_alone_and_every_tile_is_read_once(toy: Toy, read: list[int], threads: int) -> None:
    alone = {name: toy.embed(f"{name}.h5", spec=spec, threads=threads).read_bytes() for name, spec in SPECS.items()}
    assert sum(read) == 3 * 45
    del read[:]
    found = together(toy, *SPECS, threads=threads)
    assert sum(read) == 45
    assert {name: path.read_bytes() for name, path in found.items()} == alone
    record = json.loads((toy.folder / "group/vit.json").read_text())
    assert (record["items"], record["encoders_in_group"]) == (45, 3)
    assert 0 < record["encoder_seconds"] <= record["seconds"]


def test_a_killed_group_goes_on_at_the_section_for_every_encoder(
    toy: Toy, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {name: toy.embed(f"{name}.h5", spec=spec).read_bytes() for name, spec in SPECS.items()}
    with monkeypatch.context() as patch:
        # Sections of 14, 15 and 16 tiles in batches of 16: the third batch lies in the last section alone.
        counted(patch, TimmEncoder, stop_at=3)
        with pytest.raises(KeyboardInterrupt):
            together(toy, "st", "vit", vit={"batch_size": 16})
    scratch = toy.folder / "group/scratch"
    parts = {name: sorted(p.name[:2] for p in (scratch / name).iterdir()) for name in ("st", "vit")}
    assert parts == {"st": ["S1", "S2"], "vit": ["S1", "S2"]}
    assert not (toy.folder / "group/st.h5").exists()
    del read[:]
    found = together(toy, "st", "vit", vit={"batch_size": 16})
    assert sum(read) == 16
    assert found["st"].read_bytes() == alone["st"]
    # Its batches begin elsewhere after a kill: equal to rounding.
    again, whole = open_embeddings([found["vit"]]), open_embeddings([toy.folder / "vit.h5"])
    np.testing.assert_allclose(again.rows(), whole.rows(), atol=1e-5)


def test_parts_that_only_one_encoder_has_are_kept_and_the_other_catches_up(
    toy: Toy, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = together(toy, "st", "net", folder="whole", net={"batch_size": 16})
    with monkeypatch.context() as patch:
        counted(patch, StainTexture, stop_at=3)
        with pytest.raises(KeyboardInterrupt):
            toy.embed("no.h5", scratch=toy.folder / "group/scratch/st")
    del read[:]
    texture, net = counted(monkeypatch, StainTexture), counted(monkeypatch, TimmEncoder)
    found = together(toy, "st", "net", net={"batch_size": 16})
    assert sum(read) == 45
    assert (texture(), net()) == (16, 45)
    for name, path in found.items():
        assert path.read_bytes() == whole[name].read_bytes()


def test_the_order_of_a_group_changes_no_file(toy: Toy) -> None:
    one = {name: path.read_bytes() for name, path in together(toy, "vit", "st", "net").items()}
    other = {name: path.read_bytes() for name, path in together(toy, "net", "vit", "st", folder="other").items()}
    assert one == other


def test_parts_of_another_seed_are_not_taken(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = toy.embed("v.h5", spec={**SPECS["vit"], "seed": 1, "batch_size": 16}).read_bytes()
    with monkeypatch.context() as patch:
        counted(patch, TimmEncoder, stop_at=3)
        with pytest.raises(KeyboardInterrupt):
            together(toy, "st", "vit", vit={"batch_size": 16})
    assert list((toy.folder / "group/scratch/vit").glob("*.npy"))
    again = together(toy, "st", "vit", vit={"batch_size": 16, "seed": 1})
    assert again["vit"].read_bytes() == wanted


def test_encoders_that_cannot_share_the_tiles_are_no_group(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, check=has_code("encoder-group-tiles")):
        together(toy, "st", "vit", vit={"tiles_spec": {**TILES, "size_px": 48}})
    monkeypatch.setitem(ENCODERS, "stain_texture", replace(ENCODERS["stain_texture"], reads="counts"))
    with pytest.raises(InputError, check=has_code("encoder-group-counts")):
        together(toy, "vit", "st")


def test_tiles_at_once_suit_every_encoder() -> None:
    assert tiles_at_once([32, 512]) == 512
    assert tiles_at_once([7, 4, 16]) == 112
    assert tiles_at_once([511, 512]) == 512
    assert tiles_at_once([LARGEST_BATCH * 2]) == LARGEST_BATCH * 2


def test_a_slide_that_breaks_midway_names_itself_and_leaves_what_is_whole(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network drive that goes away: the file is open and its first tiles were read."""
    import tifffile
    from PIL import Image

    for name in toy.names:
        pixels = np.asarray(Image.open(toy.folder / f"{name}.png").convert("RGB"))
        with tifffile.TiffWriter(toy.folder / f"{name}.png") as writer:
            writer.write(pixels, tile=(64, 64), photometric="rgb", compression="deflate")
    whole = together(toy, "st", "vit", folder="whole")
    read_tiles, seen = reader.read_tiles, []

    def failing(slide: Any, centres: np.ndarray, *arguments: Any, **more: Any) -> Any:
        seen.append(len(centres))
        if len(seen) == 3:
            path = toy.folder / "S2.png"
            (toy.folder / "kept.tif").write_bytes(path.read_bytes())
            with path.open("r+b") as handle:
                handle.truncate(10)
        return read_tiles(slide, centres, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(reader, "read_tiles", failing)
        with pytest.raises(InputError, check=has_code("slide-pixels"), match=r"S2\.png"):
            together(toy, "st", "vit", vit={"batch_size": 8})
    assert not (toy.folder / "group/st.h5").exists()
    for name in ("st", "vit"):
        assert [p.name[:2] for p in (toy.folder / "group/scratch" / name).glob("*.npy")] == ["S1"]
    (toy.folder / "kept.tif").rename(toy.folder / "S2.png")
    found = together(toy, "st", "vit")
    assert found["st"].read_bytes() == whole["st"].read_bytes()
