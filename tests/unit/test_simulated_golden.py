"""The simulated cohort is the same as ever: tables to the byte, pictures to a hundredth of a grey level per block."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import anndata as ad
import numpy as np
from PIL import Image

from histoloom_simulation import write_reference, write_section
from simulation_fixtures import sheet_row, simulated_spec

GOLDEN = Path(__file__).with_name("golden_simulation.json")
ROLES = {
    "counts": "c.tsv.gz",
    "spots": "s.tsv",
    "regions": "r.tsv",
    "truth": "t.tsv",
    "cells": "x.tsv.gz",
    "image": "i.png",
}


def digest(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha256(gzip.decompress(content) if path.suffix == ".gz" else content).hexdigest()


def describe(folder: Path) -> dict[str, object]:
    """Digests of the tables of two small sections and of the reference, and the mean colour of a slide's blocks."""
    facts: dict[str, object] = {}
    for sample in ("W1", "Z2"):
        out = {role: folder / f"{sample}{name}" for role, name in ROLES.items()}
        write_section(spec=simulated_spec(seed=1, array_x=9, array_y=7), row=sheet_row(sample), out=out)
        facts[sample] = {role: digest(path) for role, path in out.items() if role != "image"}
        picture = np.asarray(Image.open(out["image"]), dtype=float)
        height, width = (size // 4 * 4 for size in picture.shape[:2])
        blocks = picture[:height, :width].reshape(4, height // 4, 4, width // 4, 3).mean(axis=(1, 3))
        facts[f"{sample} picture"] = [list(picture.shape), blocks.round(3).ravel().tolist()]
    write_reference(spec=simulated_spec(seed=1), out=folder / "reference.h5ad")
    reference = ad.read_h5ad(folder / "reference.h5ad")
    cells = (
        reference.X.toarray().astype("<i4").tobytes()
        + "\t".join([*reference.obs["cell_type"], *reference.var_names]).encode()
    )
    facts["reference"] = hashlib.sha256(cells).hexdigest()
    return facts


def test_the_simulation_makes_what_it_made(tmp_path: Path) -> None:
    made, golden = describe(tmp_path), json.loads(GOLDEN.read_text())
    assert set(made) == set(golden)
    for name, facts in golden.items():
        if name.endswith("picture"):
            assert made[name][0] == facts[0], name
            np.testing.assert_allclose(made[name][1], facts[1], atol=0.01, err_msg=name)
        else:
            assert made[name] == facts, name
