"""Several encoders in one pass: each file is that of a run alone, tiles are read once, and nothing finished is redone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_embeddings import STAIN, TILES, Toy

import histoloom.torch_compat  # noqa: F401
from histoloom.artefacts import read_metadata
from histoloom.embeddings import embed_together, open_embeddings, reader, take_over
from histoloom.embeddings.cards import load_cards
from histoloom.embeddings.stain_texture import StainTexture
from histoloom.embeddings.sweep import LARGEST_BATCH, tiles_at_once
from histoloom.embeddings.timm_encoder import TimmEncoder
from histoloom.errors import InputError

SMALL = load_cards()["random_vit_tiny"]
SMALL |= {"arch_kwargs": {"img_size": 32, "num_classes": 0, "depth": 2, "embed_dim": 24, "num_heads": 3}}
SMALL |= {"input_px": 32, "dim": 48}
NET = {**SMALL, "name": "net", "arch": "resnet18", "arch_kwargs": {"num_classes": 0}, "pooling": "mean", "dim": 512}
SPECS: dict[str, dict[str, Any]] = {
    "vit": {"card": SMALL, "tiles_spec": TILES, "name": "vit", "batch_size": 7},
    "net": {"card": NET, "tiles_spec": TILES, "name": "net", "batch_size": 4, "seed": 3},
    "st": {"card": STAIN, "tiles_spec": TILES, "name": "st"},
}


def together(toy: Toy, *names: str, folder: str = "joint", **changes: Any) -> dict[str, Path]:
    """Run a pass and take each embedding, as the workflow does; returns the files."""
    place = toy.folder / folder
    place.mkdir(exist_ok=True)
    specs = {name: SPECS[name] | changes.get(name, {}) for name in names}
    final = {name: (place / f"{name}.h5", place / f"{name}.h5.json") for name in names}
    scratch = {name: place / "scratch" / name for name in names}
    embed_together(
        cohort="toy",
        batch="b0",
        samples=toy.paths("h5ad"),
        slides=toy.paths("png"),
        tiles=toy.paths("parquet"),
        specs=list(specs.values()),
        finished=final,
        scratch=scratch,
        out=place / "pass.json",
        threads=changes.get("threads", 1),
        device="cpu",
    )
    for name in names:
        for path in final[name]:
            path.unlink(missing_ok=True)
        out, record = final[name]
        take_over(spec=specs[name], manifest=place / "pass.json", scratch=scratch[name], out=out, efficiency=record)
    return {name: final[name][0] for name in names}


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
    record = json.loads((toy.folder / "joint/vit.h5.json").read_text())
    assert (record["items"], record["encoders_in_pass"]) == (45, 3)
    assert 0 < record["encoder_seconds"] <= record["seconds"]


def test_a_killed_pass_goes_on_at_the_section_for_every_encoder(
    toy: Toy, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {name: toy.embed(f"{name}.h5", spec=spec).read_bytes() for name, spec in SPECS.items()}
    with monkeypatch.context() as patch:
        # Sections of 14, 15 and 16 tiles in batches of 16: the third batch lies in the last section alone.
        counted(patch, TimmEncoder, stop_at=3)
        with pytest.raises(KeyboardInterrupt):
            together(toy, "st", "vit", vit={"batch_size": 16})
    scratch = toy.folder / "joint/scratch"
    parts = {name: sorted(p.name[:2] for p in (scratch / name).iterdir()) for name in ("st", "vit")}
    assert parts == {"st": ["S1", "S2"], "vit": ["S1", "S2"]}
    assert not (toy.folder / "joint/st.h5").exists()
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
            toy.embed("no.h5", scratch=toy.folder / "joint/scratch/st")
    del read[:]
    texture, net = counted(monkeypatch, StainTexture), counted(monkeypatch, TimmEncoder)
    found = together(toy, "st", "net", net={"batch_size": 16})
    assert sum(read) == 45
    assert (texture(), net()) == (16, 45)
    for name, path in found.items():
        assert path.read_bytes() == whole[name].read_bytes()


def test_one_more_encoder_leaves_the_finished_ones_alone(
    toy: Toy, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {name: path.read_bytes() for name, path in together(toy, "st", "vit").items()}
    del read[:]
    texture = counted(monkeypatch, StainTexture)
    built: list[str] = []
    build = TimmEncoder.build.__func__

    def noted(cls: Any, card: Any, seed: int) -> Any:
        built.append(card["name"])
        return build(cls, card, seed)

    monkeypatch.setattr(TimmEncoder, "build", classmethod(noted))
    found = together(toy, "st", "vit", "net")
    assert texture() == 0
    assert built == ["net"], "no model is built for what is finished"
    assert sum(read) == 45
    assert {name: found[name].read_bytes() for name in first} == first
    assert found["net"].read_bytes() == toy.embed("net.h5", spec=SPECS["net"]).read_bytes()


def test_what_is_stale_is_made_again_and_the_old_file_is_not_written_into(toy: Toy) -> None:
    old = together(toy, "st", "vit")
    kept = toy.folder / "kept.h5"
    kept.hardlink_to(old["vit"])
    before = kept.read_bytes()
    found = together(toy, "st", "vit", vit={"seed": 1})
    assert kept.read_bytes() == before
    assert read_metadata(found["vit"])["revision"] == "random-seed-1"
    assert found["vit"].read_bytes() == toy.embed("v.h5", spec=SPECS["vit"] | {"seed": 1}).read_bytes()
    # Other tiles: nothing of it holds any more.
    toy.write_sample("S2", np.random.default_rng(9).uniform(20, 140, (15, 2)))
    toy.cut("S2")
    found = together(toy, "st", "vit")
    assert found["st"].read_bytes() == toy.embed("s.h5").read_bytes()


def test_weights_in_a_file_decide_by_their_content(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    path = tmp_path / "w.pth"
    vit = {"card": {**SMALL, "default_weights": "path"}, "weights": str(path)}
    for seed, anew in ((0, True), (0, False), (1, True)):
        torch.save(TimmEncoder.build(SMALL, seed).state_dict(), path)
        with monkeypatch.context() as patch:
            encoded = counted(patch, TimmEncoder)
            together(toy, "st", "vit", vit=vit)
        assert bool(encoded()) is anew


def test_taking_what_the_pass_did_not_make_stops(toy: Toy) -> None:
    together(toy, "st", "vit")
    place = toy.folder / "joint"
    asked: dict[str, Any] = {"manifest": place / "pass.json", "out": place / "o.h5", "efficiency": place / "o.json"}
    with pytest.raises(InputError, match="the embedding of 'net' was not asked for"):
        take_over(spec=SPECS["net"], scratch=place / "scratch/net", **asked)
    other = SPECS["vit"] | {"card": {**SMALL, "about": "x"}}
    with pytest.raises(InputError, match=r"not made by this pass.*run the pass again"):
        take_over(spec=other, scratch=place / "scratch/vit", **asked)
    (place / "scratch/vit/whole.h5").unlink()
    with pytest.raises(InputError, match="is not there any more"):
        take_over(spec=SPECS["vit"], scratch=place / "scratch/vit", **asked)


def test_encoders_of_other_tiles_have_no_pass(toy: Toy) -> None:
    with pytest.raises(InputError, match="'st' and 'vit' see other tiles"):
        together(toy, "st", "vit", vit={"tiles_spec": {**TILES, "size_px": 48}})


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
        with pytest.raises(InputError, match=r"S2\.png"):
            together(toy, "st", "vit", vit={"batch_size": 8})
    assert not (toy.folder / "joint/st.h5").exists()
    for name in ("st", "vit"):
        assert [p.name[:2] for p in (toy.folder / "joint/scratch" / name).glob("*.npy")] == ["S1"]
    (toy.folder / "kept.tif").rename(toy.folder / "S2.png")
    found = together(toy, "st", "vit")
    assert found["st"].read_bytes() == whole["st"].read_bytes()
