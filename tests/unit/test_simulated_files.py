"""The simulated section's files: her2st's layout, determinism, and truth that agrees with cells and pixels."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from error_codes import has_code
from histoloom.errors import InputError
from histoloom_simulation import write_reference, write_section
from simulation_fixtures import sheet_row, sheet_rows, simulated_spec

SUFFIX = {
    "counts": "tsv.gz",
    "spots": "spots.tsv",
    "image": "jpg",
    "regions": "regions.tsv",
    "truth": "truth.tsv",
    "cells": "cells.tsv.gz",
}
SMALL = {"array_x": 9, "array_y": 7}


def write(folder: Path, sample: str, roles: tuple[str, ...] = tuple(SUFFIX), row=None, **changes) -> dict[str, Path]:
    folder.mkdir(exist_ok=True, parents=True)
    out = {role: folder / f"{sample}.{SUFFIX[role]}" for role in roles}
    write_section(spec=simulated_spec(**{**SMALL, **changes}), row=row or sheet_row(sample), out=out)
    return out


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", index_col=0)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    return write(tmp_path_factory.mktemp("y1"), "Y1")


def test_counts_are_written_as_her2st_writes_them(files):
    lines = gzip.decompress(files["counts"].read_bytes()).decode().splitlines()
    assert lines[0].startswith("\t")
    counts = table(files["counts"])
    assert counts.index.str.fullmatch(r"\d+x\d+").all()
    assert counts.index.is_unique
    assert counts.columns.is_unique
    assert (counts.dtypes == np.int64).all()
    assert counts.to_numpy().min() == 0
    assert {"ERBB2", "CD3D", "MS4A1", "ADIPOQ", "MT-CO1"} <= set(counts.columns)
    assert list(counts.columns) != sorted(counts.columns)


def test_spot_file_has_more_rows_than_counts_and_never_fewer_ids(files):
    spots, counts = pd.read_csv(files["spots"], sep="\t"), table(files["counts"])
    assert list(spots.columns) == ["x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"]
    ids = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    assert set(counts.index) < set(ids)
    assert len(ids) == len(counts) + 3
    assert list(spots["new_x"].round()) == list(spots["x"])
    assert list(spots["new_y"].round()) == list(spots["y"])
    width, height = Image.open(files["image"]).size
    # No 224 px tile leaves the slide, as in her2st.
    assert spots["pixel_x"].between(112, width - 112).all()
    assert spots["pixel_y"].between(112, height - 112).all()
    assert width != height


def test_regions_join_by_rounding_and_one_row_has_no_place(files):
    regions, spots = pd.read_csv(files["regions"], sep="\t"), pd.read_csv(files["spots"], sep="\t")
    assert list(regions.columns) == ["Row.names", "x", "y", "pixel_x", "pixel_y", "label"]
    assert regions["x"].isna().sum() == 1
    placed = regions.dropna()
    assert set(zip(placed["x"], placed["y"], strict=True)) == set(zip(spots["new_x"], spots["new_y"], strict=True))
    joined = placed.merge(spots, left_on=["x", "y"], right_on=["new_x", "new_y"])
    assert np.corrcoef(joined["pixel_y_x"], joined["pixel_y_y"])[0, 1] < -0.99  # the other frame: y flipped


def test_truth_is_the_number_of_listed_cells_under_each_disc(files):
    truth, cells = table(files["truth"]), pd.read_csv(files["cells"], sep="\t")
    spots = pd.read_csv(files["spots"], sep="\t")
    spots.index = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    assert list(truth.index) == list(table(files["counts"]).index)
    assert list(truth.columns) != sorted(truth.columns)
    radius = 55 / 2 / 0.69
    off = 0
    for obs_id, row in truth.iterrows():
        place = spots.loc[obs_id]
        near = np.hypot(cells["x_px"] - place["pixel_x"], cells["y_px"] - place["pixel_y"]) <= radius
        recount = cells["type"][near].value_counts().reindex(truth.columns, fill_value=0)
        off += int((recount - row).abs().sum())
    assert off <= 2  # a centre on the rim may fall either way after rounding to 0.01 px


def test_every_listed_cell_is_drawn(files):
    """Haematoxylin at the listed centres is far above that at random tissue positions."""
    from skimage.color import rgb2hed

    picture = np.asarray(Image.open(files["image"]))
    haematoxylin = rgb2hed(picture)[..., 0]
    cells = pd.read_csv(files["cells"], sep="\t")
    at = haematoxylin[cells["y_px"].astype(int), cells["x_px"].astype(int)]
    tissue = picture.mean(axis=2) < 225
    floor = np.median(haematoxylin[tissue])
    drawn = at > floor
    assert drawn.mean() > 0.97
    swapped = haematoxylin[
        np.minimum(cells["x_px"].astype(int), picture.shape[0] - 1),
        np.minimum(cells["y_px"].astype(int), picture.shape[1] - 1),
    ]
    assert (swapped > floor).mean() < 0.6


def test_same_seed_same_bytes_and_another_seed_differs(tmp_path):
    one, two = write(tmp_path / "a", "Z2"), write(tmp_path / "b", "Z2")
    other = write(tmp_path / "c", "Z2", seed=2)
    for role in SUFFIX:
        assert one[role].read_bytes() == two[role].read_bytes(), role
        assert one[role].read_bytes() != other[role].read_bytes(), role


def test_only_the_roles_asked_for_are_written_and_do_not_change_with_company(tmp_path, files):
    alone = write(tmp_path, "Y1", roles=("truth",))
    assert [p.name for p in tmp_path.iterdir()] == ["Y1.truth.tsv"]
    assert alone["truth"].read_bytes() == files["truth"].read_bytes()


def test_reference_holds_raw_counts_from_several_donors(tmp_path):
    import anndata as ad

    spec = simulated_spec(reference={"cells_per_type": 20})
    write_reference(spec=spec, out=tmp_path / "r.h5ad")
    write_reference(spec=spec, out=tmp_path / "again.h5ad")
    assert (tmp_path / "r.h5ad").read_bytes() == (tmp_path / "again.h5ad").read_bytes()
    reference = ad.read_h5ad(tmp_path / "r.h5ad")
    assert {"cell_type", "donor", "assay"} <= set(reference.obs)
    assert reference.obs["donor"].nunique() == 4
    assert reference.obs["assay"].nunique() == 2
    assert reference.X.min() >= 0
    assert reference.X.dtype.kind == "i"
    types = list(dict.fromkeys(reference.obs["cell_type"].astype(str)))
    assert types != sorted(types)
    truth_types = set(table(write(tmp_path, "Z1", roles=("truth",))["truth"]).columns)
    assert set(types) - truth_types == {"keratinocyte"}
    assert truth_types - set(types) == {"smooth_muscle"}
    genes = set(table(write(tmp_path, "Z1", roles=("counts",))["counts"]).columns)
    assert set(reference.var_names) == genes


def test_the_tracked_sheet_has_two_sections_of_four_patients():
    rows = sheet_rows()
    assert len(rows) == 8
    assert {r["patient"]: float(r["mpp"]) for r in rows} == {"W": 0.27, "X": 0.46, "Y": 0.69, "Z": 0.92}


@pytest.mark.parametrize(
    ("row", "changes", "code"),
    [
        ({"mpp": ""}, {}, "simulation-number"),
        ({"pitch_um": "-5"}, {}, "simulation-number"),
        ({}, {"effects": {"same_person": {"Y1": "nobody"}}}, "simulation-same-person"),
        ({}, {"array_x": 4, "array_y": 4}, "simulation-no-tissue"),
    ],
)
def test_bad_input_is_named(tmp_path, row, changes, code):
    with pytest.raises(InputError, check=has_code(code)):
        write(tmp_path, "Y1", roles=("truth",), row=sheet_row("Y1", **row), **changes)
    assert not list(tmp_path.iterdir())


def test_unknown_role_is_an_error(tmp_path):
    with pytest.raises(KeyError, match="picture"):
        write_section(spec=simulated_spec(**SMALL), row=sheet_row("Z1"), out={"picture": tmp_path / "x"})
