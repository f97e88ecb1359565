"""Sections read without their slide, for judges of labels."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from histoloom.artefacts import read_metadata
from histoloom.samples import read_section
from histoloom.samples.her2st import Her2stReader
from histoloom.slides import BlankSlide


def test_blank_slide_holds_all_places() -> None:
    slide = BlankSlide.around(np.array([[10.0, 400.2], [90.5, 30.0]]))
    assert (slide.width, slide.height) == (101, 431)
    assert slide.thumbnail(50).shape == (50, 12, 3)
    assert slide.read(90, 420, 11, 11).min() == 255


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
