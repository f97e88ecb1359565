"""Features of other software: each observation gets its own, and what does not belong is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from error_codes import has_code
from histoloom.config import load_config
from histoloom.embeddings import open_embeddings
from histoloom.embeddings.precomputed import import_embeddings, read_table
from histoloom.errors import InputError
from histoloom.plan import Plan
from histoloom.samples import read_section
from histoloom.samples.hest import HestReader
from histoloom.tiles import cut_tiles
from raw_layouts import HestSample

TILES = {"size_px": 56, "um_per_px": 0.5, "background": {"method": "none"}}
SIDE = 56  # level-0 px at 0.5 um/px
DIM = 6


def card(dim: int | None = DIM) -> dict[str, Any]:
    told = {"licence": "none", "gate": None, "citation": "none", "proven": False}
    return {"name": "made_up", "kind": "timm", "dim": dim, "input_px": 56, **told}


class World:
    """A Visium sample of HEST with its tiles, and files of features whose numbers say where their tile lies."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.raw = folder, HestSample("Visium")
        self.raw.write(folder)
        files = {role: Path(path) for role, path in HestReader.files(self.raw.row, {}, folder).items()}
        self.sample, self.tiles = folder / "s.h5ad", folder / "t.parquet"
        read_section(
            source="hest", cohort="c", row=self.raw.row, spec={}, files=files, out=self.sample, picture=folder / "s.png"
        )
        cut_tiles(sample=self.sample, slide=files["image"], spec=TILES, out=self.tiles, picture=folder / "t.png")
        self.frame = pd.read_parquet(self.tiles)
        self.centres = self.frame[["x", "y"]].to_numpy()
        self.height, self.width = self.raw.image.shape[:2]

    def grid(self, step: float = SIDE, offset: float = 3.0) -> np.ndarray:
        """Corners of tiles that cover the slide; no observation is as far from two of them."""
        x, y = np.meshgrid(np.arange(offset, self.width - SIDE, step), np.arange(offset, self.height - SIDE, step))
        return np.column_stack([x.ravel(), y.ravel()]).astype(np.int64)

    def trident(self, corners: np.ndarray, path: Path | None = None, **change: Any) -> Path:
        """As `WSI.extract_patch_features` writes it; features 0 and 1 are the tile's centre."""
        path = path or self.folder / "trident.h5"
        features = np.zeros((len(corners), change.pop("dim", DIM)), np.float16 if change.pop("half", False) else "f4")
        features[:, :2] = (corners + SIDE / 2) / 16
        change = {"features": features, "coords": corners, **change}
        attributes = {
            "patch_size": 56, "patch_size_level0": SIDE, "level0_magnification": 20, "target_magnification": 20,
            "overlap": 0, "name": "H1", "savetodir": "x", "level0_width": self.width, "level0_height": self.height,
            **change.pop("attributes", {}),
        }  # fmt: skip
        with h5py.File(path, "w") as handle:
            for name, values in change.items():
                if values is not None:
                    handle.create_dataset(name, data=values, chunks=(1, *values.shape[1:]))
            if "features" in handle:
                handle["features"].attrs.update({"name": "H1", "encoder": "made_up_v1"})
            if "coords" in handle:
                handle["coords"].attrs.update({k: v for k, v in attributes.items() if v is not None})
        return path

    def hest(self, chosen: Any = slice(None), path: Path | None = None, **change: Any) -> Path:
        """As `benchmark.embed_tiles` writes it: barcodes (n, 1) of variable length."""
        path = path or self.folder / "hest.h5"
        centres, names = self.centres[chosen], self.frame["obs_id"].to_numpy()[chosen]
        features = np.zeros((len(centres), change.pop("dim", DIM)), np.float32)
        features[:, :2] = centres
        made: dict[str, Any] = {
            "embeddings": features,
            "coords": np.rint(centres - SIDE / 2).astype(np.int64),
            "barcodes": np.array(names, dtype=object)[:, None],
        }
        with h5py.File(path, "w") as handle:
            for name, values in {**made, **change}.items():
                if values is not None:
                    text = {"dtype": h5py.string_dtype("utf-8")} if values.dtype == object else {}
                    handle.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]), **text)
        return path

    def take(self, features: Path, form: str, **change: Any) -> Any:
        spec = {
            "card": card(change.pop("card_dim", DIM)), "tiles_spec": TILES, "tiles": "t28", "name": "given",
            "format": form, "max_shift_um": 20.0, "max_missing": 0.2, **change,
        }  # fmt: skip
        out = self.folder / "out.h5"
        import_embeddings(
            cohort="c",
            batch="b0-00000000",
            samples=[self.sample],
            tiles=[self.tiles],
            features=[features],
            spec=spec,
            out=out,
        )
        return open_embeddings([out])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("precomputed"))


@pytest.mark.parametrize("axis", [False, True])
def test_observations_get_the_nearest_tile_of_a_grid(world: World, axis: bool) -> None:
    corners = world.grid()
    path = world.trident(corners)
    if axis:  # (1, n, d), as slide encoders take them
        with h5py.File(path, "r+") as handle:
            facts, values = dict(handle["coords"].attrs), handle["features"][:]
            del handle["features"], handle["coords"]
            handle["features"], handle["coords"] = values[None], corners[None]
            handle["coords"].attrs.update(facts)
    found = world.take(path, "trident")
    assert list(found.obs["obs_id"]) == list(world.frame["obs_id"])
    np.testing.assert_array_equal(found.coords, world.centres)
    # By hand: every distance, no tree.
    distances = np.hypot(*(world.centres[:, None] - (corners + SIDE / 2)[None]).transpose(2, 0, 1))
    np.testing.assert_allclose(found.rows()[:, :2] * 16, corners[distances.argmin(axis=1)] + SIDE / 2)
    told = found.metadata[0]["precomputed"]["sections"]["H1"]
    assert told["n_missing"] == 0
    assert told["shift_um_median_max"][1] == pytest.approx(distances.min(axis=1).max() * 0.5, abs=1e-3)
    assert told["n_rows_unused"] == len(corners) - len(set(distances.argmin(axis=1)))
    assert found.metadata[0]["revision"].startswith("local")


def test_observations_beyond_the_tolerance_are_counted_and_left_out(world: World) -> None:
    corners = world.grid()
    shift = np.hypot(*(world.centres[:, None] - (corners + SIDE / 2)[None]).transpose(2, 0, 1)).min(axis=1) * 0.5
    limit = float(np.quantile(shift, 0.7))
    found = world.take(world.trident(corners), "trident", max_shift_um=limit, max_missing=0.5)
    assert list(found.obs["obs_id"]) == list(world.frame["obs_id"][shift <= limit])
    assert found.metadata[0]["precomputed"]["sections"]["H1"]["n_missing"] == int((shift > limit).sum()) > 0
    with pytest.raises(InputError, check=has_code("features-incomplete")):
        world.take(world.trident(corners), "trident", max_shift_um=limit)
    none = world.take(world.trident(corners), "trident", max_shift_um=shift.min() / 2, max_missing=1)
    assert len(none) == 0
    assert none.rows().shape == (0, DIM)
    assert none.metadata[0]["precomputed"]["sections"]["H1"]["shift_um_median_max"] is None


def test_rows_of_hest_go_by_barcode_whatever_their_order(world: World) -> None:
    order = np.random.default_rng(0).permutation(len(world.frame))
    found = world.take(world.hest(order), "hest")
    assert list(found.obs["obs_id"]) == list(world.frame["obs_id"])
    np.testing.assert_array_equal(found.rows()[:, :2], world.centres.astype("f4"))
    some = world.take(world.hest(order[:80]), "hest")
    assert set(some.obs["obs_id"]) == set(world.frame["obs_id"].to_numpy()[order[:80]])
    assert some.metadata[0]["precomputed"]["sections"]["H1"]["n_missing"] == len(order) - 80
    as_bytes = world.hest(barcodes=np.array(world.frame["obs_id"], "S"))
    assert len(world.take(as_bytes, "hest")) == len(order)


BAD: list[tuple[str, Callable[[World], Path], str]] = [
    ("trident", lambda w: w.folder / "absent.h5", "features-missing"),
    ("trident", lambda w: w.hest(), "features-format"),
    ("hest", lambda w: w.trident(w.grid()), "features-format"),
    ("trident", lambda w: w.trident(w.grid(), dim=9), "features-dim"),
    ("trident", lambda w: w.trident(w.grid(), coords=w.grid()[:-1]), "features-shape"),
    ("trident", lambda w: w.trident(w.grid(), features=np.full((len(w.grid()), DIM), np.nan)), "features-nan"),
    ("trident", lambda w: w.trident(w.grid(), attributes={"level0_width": w.width + 3}), "features-slide"),
    ("trident", lambda w: w.trident(w.grid(), attributes={"patch_size": 224}), "features-tile-size"),
    ("trident", lambda w: w.trident(w.grid(), attributes={"patch_size_level0": 62}), "features-tile-size"),
    (
        "trident",
        lambda w: w.trident(w.grid(), attributes={"patch_size_level0": None, "level0_magnification": 40}),
        "features-tile-size",
    ),
    ("trident", lambda w: w.trident(w.grid(), attributes={"patch_size": None}), "features-attributes"),
    ("hest", lambda w: w.hest(barcodes=np.array([f"Q{i}" for i in range(len(w.frame))], dtype=object)[:, None]), "features-obs"),
    ("hest", lambda w: w.hest(barcodes=np.array(["A"] * len(w.frame), dtype=object)[:, None]), "features-barcode-twice"),
    # Visium slides share their barcodes: a file of another section shows by its places.
    ("hest", lambda w: w.hest(coords=np.rint(w.centres[::-1] - SIDE / 2)), "features-section"),
    ("hest", lambda w: w.hest(coords=np.rint(w.centres - SIDE / 2)[:, ::-1]), "features-section"),
    ("hest", lambda w: w.hest(coords=np.rint(w.centres - 112)), "features-tile-size"),
    ("hest", lambda w: w.hest(slice(0, 9)), "features-incomplete"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "make", "code"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_does_not_belong_is_refused(world: World, form: str, make: Any, code: str) -> None:
    with pytest.raises(InputError, check=has_code(code)):
        world.take(make(world), form)


def test_a_cut_file_is_refused(world: World, tmp_path: Path) -> None:
    path = tmp_path / "cut.h5"
    path.write_bytes(world.trident(world.grid()).read_bytes()[:3000])
    with pytest.raises(InputError, check=has_code("features-unreadable")):
        read_table(path, "trident")


def test_a_file_that_changes_is_another_artefact_and_the_same_file_the_same_bytes(world: World) -> None:
    out, bytes_of, identities = world.folder / "out.h5", [], []
    for offset in (3, 3, 4):
        world.take(world.trident(world.grid(offset=offset)), "trident", max_shift_um=30.0)
        bytes_of.append(out.read_bytes())
        identities.append(open_embeddings([out]).metadata[0]["identity"]["sha256"])
    assert bytes_of[0] == bytes_of[1] != bytes_of[2]
    assert identities[0] == identities[1] != identities[2]


def test_the_plan_reads_files_and_no_slides(tmp_path: Path) -> None:
    (tmp_path / "s.tsv").write_text("sample\tpatient\ttechnology\nH1\tP1\tVisium\nH2\tP2\tVisium\n")
    encoder = {
        "kind": "precomputed", "card": "uni", "tiles": "t", "format": "hest",
        "files": "{mirror_dir}/uni/{cohort}/{sample}.h5", "max_shift_um": 5,
    }  # fmt: skip
    raw: dict[str, Any] = {
        "mirror_dir": "/data",
        "cohorts": {"h": {"source": "hest", "sheet": str(tmp_path / "s.tsv")}},
        "tiles": {"t": {}},
        "encoders": {"given": encoder, "run": {"card": "uni", "tiles": "t"}},
        "experiments": {},
    }
    raw["models"] = {name: {"kind": "ridge", "inputs": [name]} for name in ("given", "run")}
    plan = Plan(load_config(raw, [tmp_path / "c.yaml"]))
    assert plan.models.level("given") == plan.models.level("run")
    (batch,) = plan.embeddings.batches("given", "h")
    files = plan.embeddings.batch_files("given", "h", batch)
    assert files["features"] == ["/data/uni/h/H1.h5", "/data/uni/h/H2.h5"]
    assert "slides" not in files
    assert (plan.embeddings.precomputed, plan.embeddings.computed) == (["given"], ["run"])
    for change, code in (
        ({"weights": "hub"}, "schema-unknown-key"),
        ({"kind": "precomputd"}, "kind-unknown"),
        ({"files": "all.h5"}, "schema-value"),
        ({"max_shift_um": 0}, "schema-value"),
    ):
        with pytest.raises(InputError, check=has_code(code)):
            load_config({**raw, "encoders": {"given": {**encoder, **change}}}, [tmp_path / "c.yaml"])
