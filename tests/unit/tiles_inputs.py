"""Slides and sections for the tests of the stage `tiles`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from PIL import Image

from histoloom.identity import make_identity

PINK = (180, 90, 160)


def save(pixels: np.ndarray, path: Path) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def write_sample(path: Path, centres: Any, size: tuple[int, int], mpp: float = 0.5, **facts: Any) -> Path:
    centres = np.asarray(centres, float)
    obs = pd.DataFrame(index=[f"{i}x{i + 1}" for i in range(len(centres))])
    data = ad.AnnData(sp.csr_matrix((len(centres), 1), dtype=np.int32), obs=obs)
    data.obsm["spatial"] = centres
    metadata = {"cohort": "toy", "sample": "S1", "patient": "P1", "qc_flag": "", "mpp": mpp}
    metadata |= {"slide_width": size[0], "slide_height": size[1], **facts}
    metadata["identity"] = make_identity("samples", metadata | {"centres": centres.tolist()}, {})
    data.uns["histoloom"] = json.dumps(metadata)
    data.write_h5ad(path)
    return path
