"""Counted nuclei: dots that are known, the simulated truth, independence of the scan, and the checks that use them."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from metrics_inputs import make_obs, make_values, write_labels
from PIL import Image
from scipy.ndimage import gaussian_filter

from error_codes import has_code
from histoloom.artefacts import read_metadata, write_parquet
from histoloom.checks.base import run_check
from histoloom.errors import InputError
from histoloom.metrics.rows import read_metrics
from histoloom.nuclei import count_nuclei
from histoloom.nuclei.find import find_nuclei
from histoloom.schemas import check, load_schema
from simulation_fixtures import sheet_row, simulated_spec


def picture(centres: np.ndarray, size_um: float, mpp: float, radius_um: float = 3.5) -> np.ndarray:
    """Purple discs on pink."""
    side = round(size_um / mpp)
    y, x = np.mgrid[:side, :side] * mpp + mpp / 2
    ink = np.zeros((side, side))
    for cx, cy in centres:
        ink = np.maximum(ink, ((x - cx) ** 2 + (y - cy) ** 2 < radius_um**2).astype(float))
    ink = gaussian_filter(ink, 0.5 / mpp)[..., None]
    return (np.array([232, 190, 214]) * (1 - ink) + np.array([80, 60, 140]) * ink).astype(np.uint8)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.9])
def test_known_dots_are_counted_at_their_places_whatever_the_scan(mpp):
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(15, 140, 16.0), np.arange(15, 140, 16.0)), axis=-1).reshape(-1, 2)
    centres = grid + rng.uniform(-2, 2, size=grid.shape)
    found = find_nuclei(picture(centres, 150, mpp), mpp)
    assert len(found) == len(centres)
    nearest = np.hypot(*(found[:, None, :2] * mpp - centres[None]).transpose(2, 0, 1)).min(axis=1)
    assert nearest.max() < 1.2
    assert found[:, 2].mean() == pytest.approx(np.pi * 3.5**2, rel=0.35)


def test_touching_nuclei_are_parted_and_glass_holds_none():
    centres = np.array([[40.0, 40.0], [46.5, 40.0], [80.0, 80.0]])
    assert len(find_nuclei(picture(centres, 120, 0.4), 0.4)) == 3
    assert len(find_nuclei(np.full((200, 200, 3), 243, np.uint8), 0.5)) == 0


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Sections of two scans with their true cells; spots' discs as the truth counts them."""
    from histoloom_simulation.section import simulate_section, write_section

    folder = tmp_path_factory.mktemp("nuclei")
    made = {}
    for name in ("X1", "Z1"):
        spec, row = simulated_spec(seed=1), sheet_row(name)
        section = simulate_section(spec, row)
        write_section(spec=spec, row=row, out={"image": folder / f"{name}.jpg"})
        places = section.layout.centres[section.spots] / section.section.mpp
        data = anndata.AnnData(np.zeros((len(places), 1)), obs=pd.DataFrame(index=section.obs_ids))
        data.obsm["spatial"] = places
        data.uns["histoloom"] = json.dumps(
            {"cohort": "demo", "sample": name, "patient": name[0], "mpp": section.section.mpp,
             "spot_diameter_um": section.layout.spot_um}
        )  # fmt: skip
        data.write_h5ad(folder / f"{name}.h5ad")
        count_nuclei(
            spec={}, sample=folder / f"{name}.h5ad", slide=folder / f"{name}.jpg", out=folder / f"{name}.parquet"
        )
        made[name] = section
    return folder, made


@pytest.mark.parametrize("name", ["X1", "Z1"])
def test_counts_follow_the_true_cells(simulated, name):
    """Overlapping nuclei are missed, more of them on a coarse scan: the count must follow the truth and be near it."""
    folder, made = simulated
    table = pd.read_parquet(folder / f"{name}.parquet").set_index("obs_id")["nuclei"]
    truth = made[name].abundance.sum(axis=1)
    counted = table.reindex(made[name].obs_ids).to_numpy()
    known = np.isfinite(counted)
    assert known.mean() > 0.9
    assert np.corrcoef(counted[known], truth[known])[0, 1] > 0.84
    assert 0.8 < counted[known].sum() / truth[known].sum() < 1.2
    assert read_metadata(folder / f"{name}.parquet")["disc_um"] == 55


def test_a_shifted_slide_loses_the_truth(simulated):
    """The count belongs to its place: spots exchanged, nothing is left."""
    folder, made = simulated
    table = pd.read_parquet(folder / "X1.parquet").set_index("obs_id")["nuclei"]
    counted = np.nan_to_num(table.reindex(made["X1"].obs_ids).to_numpy())
    assert abs(np.corrcoef(np.roll(counted, 37), made["X1"].abundance.sum(axis=1))[0, 1]) < 0.35


def test_sections_without_scale_are_refused_and_rims_are_nan(tmp_path):
    Image.fromarray(np.full((100, 100, 3), 230, np.uint8)).save(tmp_path / "s.png")
    data = anndata.AnnData(np.zeros((2, 1)), obs=pd.DataFrame(index=["a", "b"]))
    data.obsm["spatial"] = np.array([[50.0, 50.0], [2.0, 50.0]])
    data.uns["histoloom"] = json.dumps({"cohort": "c", "sample": "s"})
    data.write_h5ad(tmp_path / "s.h5ad")
    with pytest.raises(InputError, check=has_code("nuclei-scale"), match="mpp and spot_diameter_um"):
        count_nuclei(spec={}, sample=tmp_path / "s.h5ad", slide=tmp_path / "s.png", out=tmp_path / "o.parquet")
    data.uns["histoloom"] = json.dumps({"cohort": "c", "sample": "s", "mpp": 1.0, "spot_diameter_um": 55})
    data.write_h5ad(tmp_path / "s.h5ad")
    count_nuclei(spec={}, sample=tmp_path / "s.h5ad", slide=tmp_path / "s.png", out=tmp_path / "o.parquet")
    assert pd.read_parquet(tmp_path / "o.parquet")["nuclei"].tolist() == pytest.approx([0, np.nan], nan_ok=True)


def checked(tmp_path, values, counts, units="cells"):
    obs = make_obs({("A", "A1"): 40, ("B", "B1"): 40})
    labels = write_labels(tmp_path / "l.h5ad", obs, values, ["x", "y"], units=units)
    files = []
    for sample, part in obs.groupby("sample"):
        at = (obs["sample"] == sample).to_numpy()
        table = pd.DataFrame({"obs_id": part["obs_id"].to_numpy(), "nuclei": counts[at], "nuclei_area_um2": 0.0})
        write_parquet(table, tmp_path / f"{sample}.parquet", {"cohort": "demo", "sample": sample, "patient": sample[0]})
        files.append(tmp_path / f"{sample}.parquet")
    spec = {"kind": "nuclei", "labels": "c2l", "cohorts": ["demo"]}
    check(spec, load_schema("check.nuclei"), "j")
    run_check(spec={**spec, "name": "j"}, labels=[labels], against=files, out=tmp_path / "j.parquet")
    return obs, read_metrics([tmp_path / "j.parquet"])


def test_total_abundance_is_held_against_nuclei(tmp_path):
    obs = make_obs({("A", "A1"): 40, ("B", "B1"): 40})
    values = make_values(obs, types=2)
    counts = values.sum(axis=1) / 2 + np.random.default_rng(0).normal(size=len(obs))
    counts[3] = np.nan
    _, rows = checked(tmp_path, values, counts)
    at = (obs["sample"] == "A1").to_numpy() & np.isfinite(counts)
    section = rows[(rows["aggregation"] == "section") & (rows["sample"] == "A1")].set_index("metric")
    assert section.loc["nuclei_cc", "value"] == pytest.approx(np.corrcoef(values[at].sum(axis=1), counts[at])[0, 1])
    assert section.loc["nuclei_ratio", "value"] == pytest.approx(values[at].sum() / counts[at].sum())
    assert section.loc["nuclei_cc", "n"] == 39
    assert section.loc["nuclei_median", "value"] == pytest.approx(np.median(counts[at]))


def test_proportions_have_no_total(tmp_path):
    obs = make_obs({("A", "A1"): 40, ("B", "B1"): 40})
    share = np.random.default_rng(0).dirichlet([1, 1], size=len(obs))
    _, rows = checked(tmp_path, share, np.random.default_rng(1).poisson(9, len(obs)).astype(float), "proportion")
    assert rows[rows["metric"].isin(["nuclei_cc", "nuclei_ratio"])]["value"].isna().all()


def test_marked_nuclei_of_real_tiles_are_found(real_data):
    """As measured: F1 .84, of which the settings' choice on these tiles is worth .01 (tests/bench/bench_nuclei.py)."""
    import sys
    from pathlib import Path

    sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))
    import bench_nuclei

    folder = real_data / "nucls_tiles"
    if not folder.is_dir():
        pytest.skip("the marked tiles of NuCLS are not here")
    tiles = []
    for path in sorted((folder / "images").glob("*.png")):
        marked = np.loadtxt(folder / "labels" / f"{path.stem}.csv", delimiter=",", ndmin=2)[:, :2]
        tiles.append((np.asarray(Image.open(path).convert("RGB")), marked))
    settings = tuple(getattr(bench_nuclei.find, name) for name in bench_nuclei.NAMES)
    counts = bench_nuclei.count(tiles, settings)
    right, found, marked = np.sum(counts, axis=0)
    assert bench_nuclei.f1(counts) > 0.82
    assert right / marked > 0.77
    assert right / found > 0.86
    assert np.corrcoef([c[1] for c in counts], [c[2] for c in counts])[0, 1] > 0.95
