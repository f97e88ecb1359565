"""The embedding stage: what stops it, what it takes up again, and that nothing but content decides the features."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from PIL import Image

from encoder_specs import full_spec
from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.embeddings import embed_batch, engine, open_embeddings, run_encoders
from histoloom.embeddings.cards import build_encoder, full_card, load_cards
from histoloom.embeddings.reader import AHEAD, TileReader
from histoloom.embeddings.sections import open_sections
from histoloom.embeddings.stain_texture import StainTexture
from histoloom.errors import InputError
from histoloom.identity import make_identity
from histoloom.kind_entries import EncoderKind
from histoloom.kinds import ENCODERS
from histoloom.slides import open_slide
from histoloom.tiles import TileSpec, cut_tiles, read_tiles

TILES = {"size_px": 32, "um_per_px": "native", "background": {"method": "none"}}
STAIN = load_cards()["stain_texture"]


class Toy:
    """A cohort of small slides with tissue-like noise."""

    def __init__(self, folder: Path, names: tuple[str, ...] = ("S1", "S2", "S3"), n: int = 14) -> None:
        self.folder, self.names = folder, names
        rng = np.random.default_rng(5)
        for i, name in enumerate(names):
            pixels = rng.integers(60, 250, (160, 200, 3)).astype(np.uint8)
            pixels = np.asarray(Image.fromarray(pixels).resize((200, 160), box=(0, 0, 50, 40)))
            Image.fromarray(pixels).save(folder / f"{name}.png")
            self.write_sample(name, rng.uniform(20, 140, (n + i, 2)))
            self.cut(name)

    def write_sample(self, name: str, centres: np.ndarray, mpp: float = 0.5) -> None:
        obs = pd.DataFrame(index=[f"{i}x{7 * i % 5}" for i in range(len(centres))])
        data = ad.AnnData(sp.csr_matrix((len(centres), 0), dtype=np.int32), obs=obs)
        data.obsm["spatial"] = centres
        facts: dict[str, Any] = {"cohort": "toy", "sample": name, "patient": "P", "mpp": mpp}
        facts["identity"] = make_identity("samples", {"name": name, "c": centres.tolist()}, {})
        data.uns["histoloom"] = json.dumps(facts)
        data.write_h5ad(self.folder / f"{name}.h5ad")

    def cut(self, name: str, spec: dict[str, Any] = TILES) -> None:
        f = self.folder
        cut_tiles(
            sample=f / f"{name}.h5ad",
            slide=f / f"{name}.png",
            spec=spec,
            out=f / f"{name}.parquet",
            picture=f / "p.png",
        )

    def paths(self, end: str, names: tuple[str, ...] | None = None) -> list[Path]:
        return [self.folder / f"{name}.{end}" for name in names or self.names]

    def embed(self, out: str = "e.h5", names: tuple[str, ...] | None = None, **changes: Any) -> Path:
        spec = {"card": STAIN, "tiles_spec": TILES, "name": "st"} | changes.pop("spec", {})
        arguments: dict[str, Any] = {
            "cohort": "toy",
            "batch": "b0",
            "samples": self.paths("h5ad", names),
            "slides": self.paths("png", names),
            "tiles": self.paths("parquet", names),
            "specs": [full_spec(spec)],
            "out": [self.folder / out],
            "efficiency": [self.folder / f"{out}.eff.json"],
            "scratch": [changes.pop("scratch", self.folder / "scratch")],
            "threads": 1,
            "device": "cpu",
        }
        embed_batch(**(arguments | changes))
        return self.folder / out


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_artefact_has_the_right_rows_in_the_right_order(toy: Toy) -> None:
    path = toy.embed()
    found = open_embeddings([path], tiles_spec=TILES, card=full_card(STAIN))
    frames = [pd.read_parquet(p) for p in toy.paths("parquet")]
    kept = pd.concat([f[f["kept"]].assign(sample=n) for f, n in zip(frames, toy.names, strict=True)])
    assert found.obs["obs_id"].tolist() == kept["obs_id"].tolist()
    assert found.obs["sample"].tolist() == kept["sample"].tolist()
    assert set(found.obs["cohort"]) == {"toy"}
    np.testing.assert_array_equal(found.coords, kept[["x", "y"]].to_numpy())
    # Each row is what the encoder gives for that tile alone.
    encoder = build_encoder(full_spec({"card": STAIN, "tiles_spec": TILES, "name": "st"}), threads=1)
    with open_slide(toy.folder / "S2.png") as slide:
        row = int(np.flatnonzero(found.obs["sample"] == "S2")[3])
        (tile,) = read_tiles(slide, found.coords[[row]], 32, 32)
    np.testing.assert_array_equal(found.rows()[row], encoder.encode(tile[None], 0.5)[0])
    facts = read_metadata(path)
    assert facts["dim"] == found.rows().shape[1] == len(facts["feature_names"])
    assert facts["tiles_spec"] == TileSpec.from_dict(TILES).as_dict()
    assert facts["card"]["name"] == "stain_texture"
    assert not (toy.folder / "scratch").exists()


def test_same_inputs_same_bytes_whatever_the_threads_and_batch(toy: Toy) -> None:
    one = toy.embed("one.h5").read_bytes()
    assert toy.embed("two.h5").read_bytes() == one
    assert toy.embed("three.h5", threads=3).read_bytes() == one
    assert toy.embed("four.h5", spec={"batch_size": 3}).read_bytes() == one


def test_efficiency_record(toy: Toy) -> None:
    path = toy.embed()
    record = json.loads(path.with_name("e.h5.eff.json").read_text())
    wanted = {"stage", "seconds", "peak_rss_mb", "peak_gpu_mb", "items", "items_per_s", "device", "hardware"}
    assert wanted <= set(record)
    assert record["items"] == 14 + 15 + 16
    assert record["peak_gpu_mb"] is None
    assert record["peak_rss_mb"] > 10


def counted(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """Count the tiles of every call of the encoder; stop it at one."""
    encode, seen = StainTexture.encode, []

    def count(self: Any, tiles: np.ndarray, um_per_px: Any) -> np.ndarray:
        seen.append(len(tiles))
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        return encode(self, tiles, um_per_px)

    monkeypatch.setattr(StainTexture, "encode", count)
    return seen


def test_resume_after_a_kill_takes_finished_sections_and_gives_the_same_bytes(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = toy.embed("whole.h5").read_bytes()
    with monkeypatch.context() as patch:
        # Batches of 16 over sections of 14, 15 and 16: the third is all of S3's that is left.
        assert counted(patch, stop_at=3) == []
        with pytest.raises(KeyboardInterrupt):
            toy.embed("broken.h5")
    assert not (toy.folder / "broken.h5").exists()
    assert sorted(p.name.split(".")[0] for p in (toy.folder / "scratch").iterdir()) == ["S1", "S2"]
    seen = counted(monkeypatch)
    assert toy.embed("broken.h5").read_bytes() == whole
    assert seen == [16]
    assert json.loads((toy.folder / "broken.h5.eff.json").read_text())["items_resumed"] == 29


def test_parts_of_something_else_are_not_reused(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch)
    monkeypatch.setattr(engine.shutil, "rmtree", lambda *a, **k: None)
    toy.embed()
    toy.embed()
    assert seen == [16, 16, 13]
    # Another card, other centres, a damaged part: each is computed anew.
    toy.embed(spec={"card": {**STAIN, "args": {"disc_um": 60.0}}})
    assert sum(seen) == 90
    toy.write_sample("S2", np.random.default_rng(9).uniform(20, 140, (15, 2)))
    toy.cut("S2")
    for part in (toy.folder / "scratch").glob("S3.*"):
        part.write_bytes(part.read_bytes()[:200])
    del seen[:]
    toy.embed(spec={"card": {**STAIN, "args": {"disc_um": 60.0}}})
    assert sum(seen) == 15 + 16


def test_prose_of_a_card_makes_nothing_anew(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.shutil, "rmtree", lambda *a, **k: None)
    path = toy.embed()
    seen = counted(monkeypatch)
    other = toy.embed("o.h5", spec={"card": {**STAIN, "about": "Other words.", "unsure": "nothing"}})
    assert seen == []
    assert read_metadata(other)["identity"] == read_metadata(path)["identity"]
    open_embeddings([path], card={**full_card(STAIN), "about": "still others"})


def test_sections_of_other_scales_share_a_batch_and_keep_their_scale(toy: Toy) -> None:
    """At native resolution every section has its own um/px; the batch is one."""
    toy.write_sample("S2", np.random.default_rng(9).uniform(20, 140, (15, 2)), mpp=0.8)
    toy.cut("S2")
    together = open_embeddings([toy.embed()])
    alone = open_embeddings([toy.embed("s2.h5", names=("S2",))])
    np.testing.assert_array_equal(together.rows()[together.obs["sample"] == "S2"], alone.rows())


def test_reader_gives_the_same_batches_for_any_threads_and_closes_its_slides(toy: Toy) -> None:
    sections = open_sections("toy", *(toy.paths(e) for e in ("h5ad", "png", "parquet")), TILES)
    wanted = np.concatenate([list(read_tiles(open_slide(s.slide), s.centres, 32, 32)) for s in sections])
    for size in (1, 7, 16, 100):
        for threads in (1, 3):
            reader = TileReader(sections, TileSpec.from_dict(TILES), size, threads=threads)
            found, rows = [], []
            for batch in reader:
                assert batch.error is None
                assert len(batch.pixels) == sum(map(len, batch.ranges)) <= size
                found.append(batch.pixels.copy())
                rows += [(tiles.section, i) for tiles in batch.ranges for i in range(tiles.start, tiles.stop)]
                reader.release(batch)
            np.testing.assert_array_equal(np.concatenate(found), wanted)
            assert rows == [(s, i) for s, section in enumerate(sections) for i in range(len(section))]
            assert all(slide.result()._pixels is None for slide in reader._slides._open.values())
            # Memory for the batches that are ahead, not for all.
            assert len(reader._free) <= AHEAD + 2


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_grey_and_transparent_slides_are_read_as_colour_on_white(toy: Toy, mode: str) -> None:
    path = toy.folder / "S1.png"
    image = Image.open(path).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.new("L", image.size, 128))
    image.save(path)
    facts = open_embeddings([toy.embed()])
    with open_slide(path) as slide:
        (tile,) = read_tiles(slide, facts.coords[:1], 32, 32)
    expected = np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")))
    x, y = (facts.coords[0] - 16).round().astype(int)
    assert np.abs(tile.astype(int) - expected[y : y + 32, x : x + 32, :3]).max() <= 1
    assert np.isfinite(facts.rows()).all()


def test_tiles_of_another_spec_stop(toy: Toy) -> None:
    with pytest.raises(InputError, check=has_code("tiles-spec")):
        toy.embed(spec={"tiles_spec": {**TILES, "um_per_px": 0.5}})
    assert not (toy.folder / "e.h5").exists()


def test_stale_swapped_foreign_and_doubled_sections_stop(toy: Toy) -> None:
    with pytest.raises(InputError, check=has_code("tiles-section")):
        toy.embed(tiles=toy.paths("parquet", ("S2", "S1", "S3")))
    with pytest.raises(InputError, check=has_code("tiles-section")):
        toy.embed(cohort="other")
    with pytest.raises(InputError, check=has_code("sections-twice")):
        toy.embed(names=("S1", "S1"))
    toy.write_sample("S1", np.full((14, 2), 80.0))
    with pytest.raises(InputError, check=has_code("tiles-old")):
        toy.embed()


def test_slide_that_vanishes_stops(toy: Toy) -> None:
    (toy.folder / "S2.png").unlink()
    with pytest.raises(InputError, check=has_code("slide-missing"), match=r"S2\.png"):
        toy.embed()
    assert [p.name.split(".")[0] for p in (toy.folder / "scratch").iterdir()] == ["S1"]


def test_damaged_slide_stops(toy: Toy) -> None:
    whole = (toy.folder / "S1.png").read_bytes()
    (toy.folder / "S1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, check=has_code("image-damaged"), match=r"S1\.png"):
        toy.embed()


class NanAtTheFifth:
    """An encoder that fails on one tile, and nothing but what `PixelEncoder` asks for."""

    weights_sha256 = revision = feature_names = None
    device, precision, batch_size, dim, token_grid = "cpu", "float32", 4, 2, 0

    @classmethod
    def from_spec(cls, spec: Any, *, threads: int, device: str) -> NanAtTheFifth:
        return cls()

    def __init__(self) -> None:
        self.seen = 0

    def submit(self, tiles: np.ndarray, um_per_px: Any) -> Callable[[], np.ndarray]:
        features = np.ones((len(tiles), 2), np.float32)
        if self.seen == 4:
            features[1, 0] = np.nan
        self.seen += len(tiles)
        return lambda: features

    def allocate(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.empty(shape, np.uint8)

    def close(self) -> None:
        pass


def test_nan_feature_names_the_tile(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "nan", EncoderKind(f"{__name__}:NanAtTheFifth"))
    sys.modules.setdefault(__name__, sys.modules[NanAtTheFifth.__module__])
    with pytest.raises(InputError, check=has_code("encoder-nan")) as caught:
        toy.embed(spec={"card": {**STAIN, "kind": "nan", "dim": 2}})
    assert "tile S1/5x0" in str(caught.value)


def test_progress_tells_rate_and_time_left(
    toy: Toy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(run_encoders, "_REPORT_S", 0.0)
    toy.embed()
    told = [r.getMessage() for r in caplog.records if "tiles/s" in r.getMessage()]
    assert told[-1].startswith("toy/b0: 45 of 45 tiles")
    assert "0 s left" in told[-1]


def test_identity_follows_content_only(toy: Toy) -> None:
    first = read_metadata(toy.embed())["identity"]["sha256"]
    renamed = read_metadata(toy.embed("r.h5", batch="b9", spec={"name": "other", "batch_size": 5}))
    assert renamed["identity"]["sha256"] == first
    changed = read_metadata(toy.embed("c.h5", spec={"card": {**STAIN, "args": {"disc_um": 60.0}}}))
    assert changed["identity"]["sha256"] != first
    assert read_metadata(toy.embed("f.h5", names=("S1", "S2")))["identity"]["sha256"] != first


def test_pyramids_are_read_and_closed_once(toy: Toy) -> None:
    import tifffile

    wanted = open_embeddings([toy.embed()])
    for name in toy.names:
        pixels = np.asarray(Image.open(toy.folder / f"{name}.png").convert("RGB"))
        with tifffile.TiffWriter(toy.folder / f"{name}.png") as writer:
            writer.write(pixels, tile=(64, 64), photometric="rgb", compression="deflate", subifds=0)
            writer.write(pixels[::2, ::2], tile=(64, 64), photometric="rgb", compression="deflate", subfiletype=1)
    with open_slide(toy.folder / "S1.png") as slide:
        assert type(slide).__name__ == "WholeSlide"
    for threads in (1, 3):
        found = open_embeddings([toy.embed("t.h5", threads=threads)])
        np.testing.assert_array_equal(found.rows(), wanted.rows())


@pytest.mark.parametrize(
    "changes", [{"upsample": True}, {"seed": 1}, {"weights": "none"}, {"tiles_spec": {**TILES, "size_px": 16}}]
)
def test_what_decides_an_embedding_is_in_its_identity(changes: dict[str, Any]) -> None:
    """Of an encoder without weights neither seed nor weights decide anything."""
    spec = full_spec({"card": STAIN, "tiles_spec": TILES, "name": "st"})
    if "tiles_spec" in changes:
        changes = {"tiles_spec": TileSpec.from_dict(changes["tiles_spec"])}
    one, other = (engine._content(s, None) for s in (spec, replace(spec, **changes)))
    assert (one != other) is bool({"upsample", "tiles_spec"} & set(changes))
    assert engine._content(spec, "a") != engine._content(spec, "b")


def test_a_part_of_another_precision_is_not_taken(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        counted(patch, stop_at=3)
        with pytest.raises(KeyboardInterrupt):
            toy.embed("broken.h5")
    assert list((toy.folder / "scratch").glob("*.npy"))
    monkeypatch.setattr(StainTexture, "precision", "bfloat16")
    seen = counted(monkeypatch)
    toy.embed("again.h5")
    assert sum(seen) == 45
