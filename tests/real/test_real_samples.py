"""Readers against real sections: every her2st table, and the slides that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from histoloom.artefacts import read_metadata
from histoloom.config import read_sheet
from histoloom.samples import read_section
from histoloom.samples.files import FilesReader
from histoloom.samples.her2st import Her2stReader
from histoloom.slides import open_slide
from histoloom.sources.fetch import fetch_file
from histoloom.sources.registry import load_registry

pytestmark = pytest.mark.real

SLIDES = ("B4", "C2", "C3", "C4")


def her2st_rows(repo: Path) -> dict[str, dict[str, str]]:
    return {r["sample"]: r for r in read_sheet(repo / "config/cohorts/her2st.tsv", "her2st")}


def make(reader: Any, source: str, row: dict[str, str], root: Path, folder: Path) -> Path:
    files = {role: Path(path) for role, path in reader.files(row, {}, root).items()}
    out = folder / f"{row['sample']}.h5ad"
    read_section(
        source=source, cohort=source, row=row, spec={}, files=files, out=out, picture=folder / f"{row['sample']}.png"
    )
    return out


@pytest.fixture(scope="module")
def made(real_data: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("samples")
    rows = her2st_rows(repo)
    found = {s: make(Her2stReader, "her2st", rows[s], real_data / "her2st", folder) for s in SLIDES}
    for row in read_sheet(repo / "tests/real/lowres.tsv", "files"):
        found[row["sample"]] = make(FilesReader, "files", row, real_data, folder)
    return found


def test_all_36_tables(real_data: Path, repo: Path) -> None:
    sections = {}
    for sample, row in her2st_rows(repo).items():
        files = {r: Path(p) for r, p in Her2stReader.files(row, {}, real_data / "her2st").items() if r != "image"}
        sections[sample] = Her2stReader.read(files, row, {})
    assert sum(s.n_obs for s in sections.values()) == 13_620
    assert sum(s.uns["dropped"]["position_without_counts"] for s in sections.values()) == 33
    assert sum(s.uns["dropped"]["position_without_counts"] > 0 for s in sections.values()) == 20
    assert not any(s.uns["dropped"]["counts_without_position"] for s in sections.values())
    totals = {sample: np.asarray(s.X.sum(axis=1)).ravel() for sample, s in sections.items()}
    assert [sample for sample, t in totals.items() if (t == 0).any()] == ["D5"]
    assert (totals["D5"] == 0).sum() == 1
    assert sum((t < 100).sum() for t in totals.values()) == 40
    assert totals["A1"].sum() == 1_553_744
    assert len(set.intersection(*(set(s.var_names) for s in sections.values()))) == 11_871
    assert len(set.union(*(set(s.var_names) for s in sections.values()))) == 18_758
    labelled = {sample: s.obs["region"] for sample, s in sections.items() if "region" in s.obs}
    assert sorted(labelled) == ["A1", "B1", "C1", "D1", "E1", "F1", "G2", "H1"]
    assert all((region != "").all() for region in labelled.values())
    lost = {sample: sections[sample].uns["dropped"]["region_without_coordinates"] for sample in labelled}
    assert {sample: n for sample, n in lost.items() if n} == {"F1": 1, "G2": 8}


def darkness(section: anndata.AnnData, image: np.ndarray, scale: float, places: np.ndarray) -> float:
    at = np.floor(places * scale).astype(int)
    inside = (at >= 0).all(1) & (at[:, 0] < image.shape[1]) & (at[:, 1] < image.shape[0])
    found = np.full(len(at), 255.0)
    found[inside] = image[at[inside, 1], at[inside, 0]].mean(1)
    return float(found.mean())


@pytest.mark.parametrize("sample", ["B4", "C2"])
def test_spots_lie_on_the_tissue_and_deep_spots_on_its_dense_parts(made: dict[str, Path], sample: str) -> None:
    section = anndata.read_h5ad(made[sample])
    entry = section.uns["spatial"][sample]
    image, scale = entry["images"]["hires"].astype(float), entry["scalefactors"]["tissue_hires_scalef"]
    places = section.obsm["spatial"]
    right = darkness(section, image, scale, places)
    height, width = image.shape[0] / scale, image.shape[1] / scale
    turns = {
        "swapped": places[:, ::-1],
        "flipped": [width, 0] + places * [-1, 1],
        "upside down": [0, height] + places * [1, -1],
    }
    wrong = {name: darkness(section, image, scale, np.asarray(p)) for name, p in turns.items()}
    assert all(right < value - 3 for value in wrong.values()), (right, wrong)
    at = np.floor(places * scale).astype(int)
    spot = np.array([image[y - 8 : y + 8, x - 8 : x + 8].mean() for x, y in at])
    depth = np.log1p(section.obs["n_counts"].to_numpy())
    r = float(np.corrcoef(spot, depth)[0, 1])
    rng = np.random.default_rng(0)
    shuffled = [float(np.corrcoef(rng.permutation(spot), depth)[0, 1]) for _ in range(999)]
    assert r < min(shuffled), (r, min(shuffled))


def test_pixel_sizes(made: dict[str, Path]) -> None:
    found = {sample: read_metadata(path) for sample, path in made.items()}
    assert {sample: f["mpp_source"] for sample, f in found.items()} == dict.fromkeys(made, "pitch")
    for sample in SLIDES:
        assert 0.68 < found[sample]["mpp"] < 0.70
        assert 286.6 <= found[sample]["pitch_px"] <= 293.2
    for sample in ("A1", "A2"):
        assert 0.91 < found[sample]["mpp"] < 0.93
        assert found[sample]["qc_flag"] == "low resolution"
        assert found[sample]["patient"] == "A"
    assert {s: found[s]["n_obs"] for s in found} == {"B4": 283, "C2": 187, "C3": 180, "C4": 184, "A1": 346, "A2": 325}
    assert (found["B4"]["slide_width"], found["B4"]["slide_height"]) == (9272, 9923)


def test_tiles_of_real_slides_stay_inside(made: dict[str, Path]) -> None:
    for sample, path in made.items():
        section, facts = anndata.read_h5ad(path), read_metadata(path)
        places = section.obsm["spatial"]
        size = np.array([facts["slide_width"], facts["slide_height"]])
        assert (places > 112).all(), sample
        assert (places < size - 112).all(), sample


@pytest.mark.filterwarnings("ignore:Use `squidpy:FutureWarning")
@pytest.mark.filterwarnings("ignore:The set_bad:PendingDeprecationWarning")
def test_scanpy_draws_a_sample_as_it_is(made: dict[str, Path]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import scanpy as sc

    section = sc.read_h5ad(made["C2"])
    scalefactors = section.uns["spatial"]["C2"]["scalefactors"]
    axes = sc.pl.spatial(section, color="n_counts", sort_order=False, show=False)[0]
    boxes = [path.get_extents() for path in axes.collections[0].get_paths()]
    plt.close("all")
    centres = np.array([((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2) for b in boxes])
    scale = scalefactors["tissue_hires_scalef"]
    np.testing.assert_allclose(centres, section.obsm["spatial"] * scale, atol=0.5)
    assert np.allclose([b.width for b in boxes], scalefactors["spot_diameter_fullres"] * scale, rtol=0.02)


def test_a_slide_reads_alike_whole_and_in_parts(real_data: Path, repo: Path) -> None:
    path = real_data / "her2st" / her2st_rows(repo)["C4"]["image"]
    with open_slide(path) as slide:
        small, part = slide.thumbnail(1000), slide.read(3000, 3000, 1000, 1000)
        scale = max(small.shape) / max(slide.width, slide.height)
    box = small[int(3000 * scale) : int(4000 * scale), int(3000 * scale) : int(4000 * scale)]
    np.testing.assert_allclose(box.mean((0, 1)), part.mean((0, 1)), atol=2)


def test_the_mirror_holds_what_was_published(real_data: Path, repo: Path, tmp_path: Path) -> None:
    files = load_registry(repo / "resources/files/her2st.tsv")
    present = [name for name in files if (real_data / "her2st" / name).is_file()]
    assert len(present) >= 36 + 36 + 8 + 2 + 4
    for number, name in enumerate(present):
        out = tmp_path / f"{number}{Path(name).suffix}"
        fetch_file(entry=files[name], mirror=real_data, out=out)
        assert out.resolve() == (real_data / "her2st" / name).resolve()
