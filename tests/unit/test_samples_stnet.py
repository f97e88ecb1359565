"""The STNet reader: names from metadata.csv, CR line ends, a shifted header, fractions in ids."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.config import read_sheet
from histoloom.errors import InputError
from histoloom.folds.artefact import build_folds
from histoloom.samples import read_section
from histoloom.samples.stnet import STNetReader, read_annotation
from raw_layouts import packed, slide_with_tissue

HEADER = "type,patient,replicate,count_matrix,histology_image,spot_coordinates,tumor_annotation"


class Section:
    """A 9 x 7 array, the left 5 columns of spots under tissue; 200 um = 60 px."""

    def __init__(self) -> None:
        x, y = (a.ravel() for a in np.meshgrid(np.arange(4, 13), np.arange(6, 13), indexing="ij"))
        self.xy = np.column_stack([x, y])
        self.ids = [f"{a}x{b}" for a, b in self.xy]
        self.counts = np.random.default_rng(0).poisson(2, (63, 5))
        self.genes = [f"ENSG{i:011d}" for i in (3, 5, 419, 457, 971)]
        self.places = 60.0 * (self.xy - [4, 6]) + [90, 70] + 0.25
        self.tissue = x < 9
        self.row = {
            "sample": "BC90001_C1",
            "patient": "BC90001",
            "counts": "BC90001_C1_stdata.tsv.gz",
            "spots": "spots_BT90001_C1.csv.gz",
            "image": "HE_BT90001_C1.jpg",
            "annotation": "BC90001_C1_Coords.tsv.gz",
        }
        self.labels = ["tumor" if i % 3 else "non" for i in range(63)]

    def annotation(self, end: str = "\r") -> str:
        lines = ["xcoord\tycoord\tlab\ttumor"]
        for i in np.flatnonzero(self.tissue):
            (a, b) = self.xy[i]
            lines.append(f"C1_{a}_{b}\t{a + 0.04:.2f}\t{b - 0.03:.2f}\tL1\t{self.labels[i]}")
        return end.join(lines) + end

    def write(self, root: Path, **change: Any) -> Path:
        frame = pd.DataFrame(self.counts, index=change.get("ids", self.ids), columns=self.genes)
        (root / self.row["counts"]).write_bytes(packed(frame.to_csv(sep="\t")))
        spots = pd.DataFrame(self.places, index=self.ids, columns=["X", "Y"])[self.tissue]
        (root / self.row["spots"]).write_bytes(packed(spots.to_csv()))
        (root / self.row["annotation"]).write_bytes(packed(change.get("annotation", self.annotation())))
        Image.fromarray(slide_with_tissue(700, 520, (40, 20, 400, 480))).save(root / self.row["image"])
        names = ["count_matrix", "histology_image", "spot_coordinates", "tumor_annotation"]
        files = [self.row[r] for r in ("counts", "image", "spots", "annotation")]
        row = change.get("published") or dict(zip(names, files, strict=True))
        (root / "metadata.csv").write_text(f"{HEADER}\nTNBC,BC90001,C1,{','.join(row[n] for n in names)}\n")
        return root

    def files(self, root: Path) -> dict[str, Path]:
        return {role: Path(path) for role, path in STNetReader.files(self.row, {}, root).items()}

    def read(self, root: Path) -> anndata.AnnData:
        return STNetReader.read(self.files(root), self.row, {})


def test_a_section(tmp_path: Path) -> None:
    made = Section()
    root = made.write(tmp_path)
    out = tmp_path / "s.h5ad"
    read_section(
        source="stnet", cohort="s", row=made.row, spec={}, files=made.files(root), out=out, picture=tmp_path / "s.png"
    )
    section, facts = anndata.read_h5ad(out), read_metadata(out)
    kept = made.tissue
    assert list(section.obs_names) == [i for i, t in zip(made.ids, kept, strict=True) if t]
    np.testing.assert_array_equal(section.X.toarray(), made.counts[kept])
    np.testing.assert_allclose(section.obsm["spatial"], made.places[kept])
    np.testing.assert_array_equal(section.obs[["array_row", "array_col"]], made.xy[kept])
    assert list(section.obs["region"]) == [label for label, t in zip(made.labels, kept, strict=True) if t]
    assert list(section.var_names) == made.genes
    assert facts["dropped"]["outside_tissue"] == int((~kept).sum())
    assert facts["mpp"] == pytest.approx(200 / 60)
    assert (facts["pitch_um"], facts["spot_diameter_um"]) == (200, 100)


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
@pytest.mark.parametrize("header", ["short", "padded"])
def test_the_annotation_whatever_its_line_ends_and_header(tmp_path: Path, end: str, header: str) -> None:
    made = Section()
    text = made.annotation(end)
    if header == "padded":
        text = text.replace("xcoord", "id\txcoord", 1)
    (tmp_path / "a.tsv.gz").write_bytes(packed(text))
    labels, unusable = read_annotation(tmp_path / "a.tsv.gz")
    expected = {i: label for i, label, t in zip(made.ids, made.labels, made.tissue, strict=True) if t}
    assert labels.to_dict() == expected
    assert unusable == 0


def test_annotation_rows_without_coordinates_and_contradictions(tmp_path: Path) -> None:
    made = Section()
    path = tmp_path / "a.tsv"
    path.write_text(made.annotation() + "C1_1_1\t\t\tL1\ttumor\rC1_2_2\t2\t2\tL1\t\r")
    assert read_annotation(path)[1] == 2
    a, b = made.xy[0]
    path.write_text(made.annotation() + f"C1\t{a}\t{b}\tL1\ttumor\r")
    with pytest.raises(InputError, check=has_code("stnet-labelled-twice"), match=f"'{a}x{b}'"):
        read_annotation(path)
    path.write_text("xcoord\tycoord\r1\t2\r")
    with pytest.raises(InputError, check=has_code("stnet-annotation-columns"), match="tumor"):
        read_annotation(path)


def test_ids_with_fractions_are_rounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = Section()
    refined = [f"{a + 0.03:.2f}x{b - 0.04:.2f}" for a, b in made.xy]
    section = made.read(made.write(tmp_path, ids=refined))
    assert section.n_obs == int(made.tissue.sum())
    assert "63 of 63 ids hold fractions" in caplog.text
    with pytest.raises(InputError, check=has_code("stnet-spot-ids"), match="'spot0'"):
        made.read(made.write(tmp_path, ids=[f"spot{i}" for i in range(63)]))
    with pytest.raises(InputError, check=has_code("spot-twice")):
        made.read(made.write(tmp_path, ids=["4x6", "4.2x6.1", *made.ids[2:]]))


def test_names_are_checked_against_the_published_table(tmp_path: Path) -> None:
    made = Section()
    published = {
        "count_matrix": "BC90001_C1_stdata.tsv.gz",
        "histology_image": "HE_BC90001_C1.jpg",
        "spot_coordinates": "spots_BT90001_C1.csv.gz",
        "tumor_annotation": "BC90001_C1_Coords.tsv.gz",
    }
    root = made.write(tmp_path, published=published)
    with pytest.raises(
        InputError, check=has_code("stnet-names-differ"), match=r"'HE_BC90001_C1\.jpg'.*'HE_BT90001_C1\.jpg'"
    ):
        made.read(root)
    made.row["sample"] = "BC90001_C2"
    with pytest.raises(InputError, check=has_code("stnet-section-unknown"), match=r"'BC90001_C2'.*BC90001_C1"):
        made.read(root)
    made.row |= {"sample": "BC90001_C1", "patient": "BC9"}
    with pytest.raises(InputError, check=has_code("stnet-names-differ"), match=r"'BC90001'.*'BC9'"):
        made.read(root)
    (root / "metadata.csv").write_text("patient,replicate\nBC90001,C1\n")
    with pytest.raises(InputError, check=has_code("stnet-names-columns"), match="count_matrix"):
        made.read(root)


def test_spots_without_coordinates(tmp_path: Path) -> None:
    made = Section()
    root = made.write(tmp_path)
    path = root / made.row["spots"]
    path.write_bytes(packed(",X,Z\n4x6,1,2\n"))
    with pytest.raises(InputError, check=has_code("stnet-spots-columns"), match=" Y;"):
        made.read(root)
    path.write_bytes(packed(",X,Y\n4x6,1,\n"))
    with pytest.raises(InputError, check=has_code("positions-numbers"), match="'pixel_y'"):
        made.read(root)
    path.write_bytes(packed(",X,Y\n40x60,1,2\n"))
    with pytest.raises(InputError, check=has_code("join-unmatched")):
        made.read(root)


def test_the_sheet(repo: Path) -> None:
    rows = read_sheet(repo / "config/cohorts/stnet.tsv", "stnet")
    assert len(rows) == 68
    assert sum(int(row["x_spots"]) for row in rows) == 30_655
    patients = pd.Series([row["patient"] for row in rows]).value_counts()
    assert len(patients) == 23
    assert patients[patients != 3].to_dict() == {"BC23901": 2}
    assert all(row["sample"].startswith(row["patient"] + "_") for row in rows)
    kinds = {(row["patient"], row["x_subtype"]) for row in rows}
    subtypes = pd.Series([subtype for _, subtype in kinds]).value_counts()
    assert subtypes.to_dict() == {
        "HER2_luminal": 5,
        "HER2_non_luminal": 5,
        "Luminal_B": 5,
        "Luminal_A": 4,
        "TNBC": 4,
    }
    files = [row[role] for row in rows for role in ("counts", "spots", "image", "annotation")]
    assert len(set(files)) == 4 * 68


def test_people_that_two_cohorts_share_have_one_id(repo: Path) -> None:
    stnet = {row["sample"]: row for row in read_sheet(repo / "config/cohorts/stnet.tsv", "stnet")}
    her2st = {row["sample"]: row for row in read_sheet(repo / "config/cohorts/her2st.tsv", "her2st")}
    shared = {row["patient"] for row in stnet.values()} & {row["patient"] for row in her2st.values()}
    assert shared == {"BC23567", "BC23810", "BC23903", "BC24044"}
    pairs = {name: row["x_her2st_section"] for name, row in stnet.items() if row["x_her2st_section"]}
    assert len(pairs) == 12
    for name, other in pairs.items():
        assert her2st[other]["x_stnet_section"] == name
        assert her2st[other]["patient"] == stnet[name]["patient"]


def test_every_fault_of_a_section_says_how_to_go_on_without_it(tmp_path: Path) -> None:
    """Also those whose own remedy does not: here a sheet that names other files than the publisher."""
    made = Section()
    root = made.write(tmp_path)
    names = root / "metadata.csv"
    names.write_text(names.read_text().replace("TNBC,BC90001,C1", "TNBC,BC90002,C1"))
    files = made.files(root)
    with pytest.raises(InputError) as caught:
        read_section(
            source="stnet", cohort="c", row=made.row, spec={}, files=files, out=tmp_path / "o.h5ad", picture=tmp_path / "p.png"
        )  # fmt: skip
    assert "fix 'sample' in the sheet" in caught.value.remedy
    assert f"Or give section '{made.row['sample']}' a reason in the sheet's 'exclude' column" in caught.value.remedy


@pytest.mark.parametrize("train", ["her2st", "stnet"])
def test_the_guard_finds_the_people_that_two_cohorts_share(repo: Path, train: str) -> None:
    rows = [
        {"cohort": cohort, "sample": row["sample"], "patient": row["patient"]}
        for cohort in ("her2st", "stnet")
        for row in read_sheet(repo / f"config/cohorts/{cohort}.tsv", cohort)
    ]
    obs = pd.DataFrame(rows).assign(obs_id=[f"{i}x1" for i in range(len(rows))])
    test = {"her2st": "stnet", "stnet": "her2st"}[train]
    spec = {"split": "transfer", "train_cohorts": [train], "test_cohorts": [test], "selection": "fixed"}
    with pytest.raises(InputError) as caught:
        build_folds({**spec, "on_overlap": "fail"}, obs, seed=0)
    assert set(re.findall(r"BC[0-9]{5}(?!_)", str(caught.value))) == {"BC23567", "BC23810", "BC23903", "BC24044"}
    table, _ = build_folds({**spec, "on_overlap": "drop"}, obs, seed=0)
    transfer = table[table["fold"] != "all"]
    kept = transfer[transfer["role"] == "train"]["sample"].nunique()
    assert kept == {"her2st": 36 - 12, "stnet": 68 - 12}[train]
