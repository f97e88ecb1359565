"""Any section, in every layout that people have: the same counts, names, centres and um per px are read from all.

``HISTOLOOM_EXAMPLES=100 python -m pytest tests/unit/test_layout_properties.py`` tries more of them.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import test_user_layouts as layouts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from histoloom.artefacts import read_metadata
from histoloom.samples import read_section
from histoloom.samples.visium import VisiumReader
from raw_layouts import slide_with_tissue, write_10x_h5

EXAMPLES = int(os.environ.get("HISTOLOOM_EXAMPLES", "3"))
# Words that readers of tables take for missing values, numbers or comments.
WORDS = ["NA", "nan", "None", "null", "007", "1E3", "TRUE", "-", "b#1", "AAAC-1", "AAAC-2", "Ä1", "2x3", "1_000"]
NAMES = st.one_of(st.sampled_from(WORDS), st.text("abXY019-_.", min_size=1, max_size=9))


@st.composite
def sections(draw: st.DrawFn) -> dict[str, object]:
    """Return what `test_user_layouts` writes: an array with gaps, any names, few or many counts."""
    size = st.integers(4, 7)
    rows, columns = (grid.ravel() for grid in np.mgrid[0 : draw(size), 0 : draw(size)])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kept = np.sort(rng.permutation(len(rows))[: draw(st.integers(12, len(rows)))])
    rows, columns = rows[kept] + draw(st.integers(0, 60)), columns[kept] + draw(st.integers(0, 60))
    pitch, genes = draw(st.sampled_from([24.0, 40.0, 65.25])), draw(st.integers(2, 14))
    counts = rng.poisson(draw(st.sampled_from([0.1, 2.0, 4000.0])), (len(kept), genes)).astype(np.int32)
    # A section without a single count is refused.
    counts[:, 0] += 1
    names = draw(st.lists(NAMES, min_size=len(kept), max_size=len(kept), unique=True))
    centres = np.column_stack([60.0 + pitch * (columns - columns.min()), 50.0 + pitch * (rows - rows.min())])
    return {
        "ROWS": rows, "COLUMNS": columns, "NAMES": names, "CENTRES": centres, "COUNTS": counts,
        "GENES": [f"G{i}" for i in range(genes)], "IDS": [f"ENSG{i:011d}" for i in range(genes)],
    }  # fmt: skip


def picture(centres: np.ndarray) -> np.ndarray:
    right, bottom = (int(v) + 80 for v in centres.max(axis=0))
    return slide_with_tissue(right, bottom, (20, 20, right - 40, bottom - 40))


def read_visium(root: Path, made: dict[str, object], pixels: np.ndarray) -> ad.AnnData:
    """Write a Space Ranger folder and read it as one."""
    outs = root / "V1" / "outs"
    (outs / "spatial").mkdir(parents=True)
    names = np.char.encode(np.array(made["NAMES"]), "utf-8")
    write_10x_h5(outs / "filtered_feature_bc_matrix.h5", made["COUNTS"], names, made["GENES"], made["IDS"])
    centres = made["CENTRES"]
    pd.DataFrame(
        {"barcode": made["NAMES"], "in_tissue": 1, "array_row": made["ROWS"], "array_col": made["COLUMNS"],
         "pxl_row_in_fullres": centres[:, 1], "pxl_col_in_fullres": centres[:, 0]}
    ).to_csv(outs / "spatial" / "tissue_positions.csv", index=False)  # fmt: skip
    scales = {"tissue_hires_scalef": 1.0, "tissue_lowres_scalef": 1.0, "spot_diameter_fullres": 10.0}
    (outs / "spatial" / "scalefactors_json.json").write_text(json.dumps(scales))
    for name in ("hires", "lowres"):
        Image.fromarray(pixels).save(outs / "spatial" / f"tissue_{name}_image.png")
    Image.fromarray(pixels).save(root / "s.png")
    row = {"sample": "S1", "patient": "P", "outs": "V1/outs", "image": "s.png"}
    files = {role: Path(path) for role, path in VisiumReader.files(row, {}, root).items()}
    out = root / "out.h5ad"
    read_section(source="visium", cohort="m", row=row, spec={}, files=files, out=out, picture=root / "out.png")
    return ad.read_h5ad(out)


@pytest.mark.parametrize("layout", [*layouts.LAYOUTS, "visium"])
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(made=sections())
def test_any_section_is_read_the_same_from_every_layout(layout: str, made: dict[str, object]) -> None:
    pixels, centres = picture(made["CENTRES"]), made["CENTRES"]
    with tempfile.TemporaryDirectory() as folder, patch.multiple(layouts, slide=lambda: pixels, **made):
        root = Path(folder)
        if layout == "visium":
            section = read_visium(root, made, pixels)
        else:
            row = layouts.write_10x(root, made["IDS"]) if layout == "10x h5" else layouts.LAYOUTS[layout](root)
            section = layouts.read(root, row)
        mpp = read_metadata(root / "out.h5ad")["mpp"]
    assert list(section.obs_names) == made["NAMES"]
    assert list(section.var_names) == made["GENES"]
    np.testing.assert_array_equal(section.X.toarray(), made["COUNTS"])
    np.testing.assert_allclose(section.obsm["spatial"], centres, rtol=0, atol=1e-9)
    pitch = np.diff(np.unique(centres[:, 0])).min()
    assert mpp == pytest.approx(100 / pitch, rel=1e-6)
