"""Sections read without their slide, for checks of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.kinds import load
from histoloom.samples import read_section
from histoloom.samples.her2st import Her2stReader
from histoloom.samples.hest import HestReader
from histoloom.slides import BlankSlide
from raw_layouts import HestSample, SpaceRanger, XeniumBundle


def test_blank_slide_holds_all_places() -> None:
    slide = BlankSlide.around(np.array([[10.0, 400.2], [90.5, 30.0]]))
    assert (slide.width, slide.height) == (101, 431)
    assert slide.thumbnail(50).shape == (50, 12, 3)
    assert slide.read(90, 420, 11, 11).min() == 255


@pytest.mark.parametrize(
    ("source", "layout"),
    [("hest", HestSample("Visium")), ("hest", HestSample("Xenium")), ("visium", SpaceRanger()), ("xenium", XeniumBundle())],
    ids=["hest Visium", "hest Xenium", "visium", "xenium"],
)  # fmt: skip
def test_every_reader_can_do_without_the_slide(tmp_path: Path, source: str, layout: Any) -> None:
    root, reader = layout.write(tmp_path / "raw"), load("sources", source)
    row = {"patient": "P", **layout.row}
    made = []
    for spec in ({"source": source}, {"source": source, "images": False}):
        files = {role: Path(path) for role, path in reader.files(row, spec, root).items()}
        if made:
            assert {"image", "alignment"}.isdisjoint(files)
            for path in root.rglob("*.tif"):
                path.unlink()
        out = tmp_path / f"{len(made)}.h5ad"
        read_section(source=source, cohort="c", row=row, spec=spec, files=files, out=out, picture=tmp_path / "p.png")
        made.append(out)
    with_slide, without = (ad.read_h5ad(path) for path in made)
    assert read_metadata(made[1])["slide_sha256"] is None
    assert list(with_slide.obs_names) == list(without.obs_names)
    assert (with_slide.X != without.X).nnz == 0


def test_files_and_stnet_leave_the_slide_out_too() -> None:
    row = {"sample": "S", "patient": "P", "counts": "c.tsv", "positions": "p.csv", "spots": "s.csv", "image": "i.jpg"}
    for source in ("files", "stnet"):
        reader = load("sources", source)
        assert set(reader.files(row, {}, "/r")) - set(reader.files(row, {"images": False}, "/r")) == {"image"}


def test_patches_cannot_be_compared_with_slides_that_are_not_read() -> None:
    with pytest.raises(InputError, check=has_code("hest-patches-images")):
        HestReader.files({"sample": "H1"}, {"images": False, "patches": "check"}, "/r")


@pytest.mark.real
def test_a_section_is_read_without_its_slide(real_data: Path, tmp_path: Path) -> None:
    row = {
        "sample": "G2",
        "patient": "BC23903",
        "image": "x.jpg",
        "regions": "data/ST-pat/lbl/G2_labeled_coordinates.tsv",
    }
    spec = {"source": "her2st", "images": False}
    files = Her2stReader.files(row, spec, real_data / "her2st")
    assert "image" not in files
    out, picture = tmp_path / "s.h5ad", tmp_path / "s.png"
    paths = {role: Path(path) for role, path in files.items()}
    read_section(source="her2st", cohort="c", row=row, spec=spec, files=paths, out=out, picture=picture)
    section = ad.read_h5ad(out)
    assert section.n_obs == 467
    assert (section.obs["region"] != "").all()
    assert read_metadata(out)["slide_sha256"] is None
    assert read_metadata(out)["mpp"] == pytest.approx(0.68, abs=0.02)
