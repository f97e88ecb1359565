"""Results in a notebook: predictions, labels and tables, ready for scanpy and squidpy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_elements, read_metadata
from histoloom.errors import InputError
from histoloom.samples.section import open_section

if TYPE_CHECKING:
    from anndata import AnnData


def read_predictions(path: str | Path, results: str | Path | None = None) -> AnnData:
    """Read predictions, of held-out sections or of slides, as an AnnData that scanpy and squidpy plot as it is.

    `results`: the folder ``results`` of the run, for the sections' pictures; None: the one that the file lies in. X are
    the predictions, ``layers["labels"]`` what was to be predicted; obs has sample, cohort, patient, obs_id, and
    library_id, by which squidpy tells sections apart; ``uns["histoloom"]`` the metadata as a dict.
    """
    return _read(Path(path), results)


def read_labels(path: str | Path, results: str | Path | None = None) -> AnnData:
    """Read labels of a cohort as `read_predictions` does; places come from the sections."""
    return _read(Path(path), results)


def read_metrics(path: str | Path) -> pd.DataFrame:
    """Read a table of scores: one row per section, patient or cohort, type and measure (`histoloom.metrics.rows`)."""
    from histoloom.metrics.rows import read_metrics as read

    return read([path])


def _read(path: Path, results: str | Path | None) -> AnnData:
    import anndata

    if not path.is_file():
        remedy = "name a file under results/, of a run that has ended."
        raise InputError(path, "does not exist.", remedy, "file-missing")
    data, metadata = anndata.read_h5ad(path), read_metadata(path)
    if not {"sample", "obs_id"} <= set(data.obs):
        remedy = "give a file of results/predictions or results/labels."
        raise InputError(path, "holds neither predictions nor labels.", remedy, "notebook-file")
    data.uns["histoloom"] = metadata
    if "cohort" not in data.obs:
        data.obs["cohort"] = str(metadata["cohort"])
    data.obs["library_id"] = data.obs["sample"].astype("category")
    root = Path(results) if results else next((p for p in path.resolve().parents if p.name == "results"), None)
    if root is None:
        problem = "does not lie in a folder called results."
        raise InputError(path, problem, "name that folder: read_predictions(path, results=...).", "notebook-results")
    sections = data.obs[["cohort", "sample"]].astype(str).drop_duplicates()
    spatial = np.full((data.n_obs, 2), np.nan)
    pictures: dict[str, Any] = {}
    for cohort, sample in sections.itertuples(index=False):
        section = open_section(root / "samples" / cohort / f"{sample}.h5ad")
        rows = ((data.obs["cohort"] == cohort) & (data.obs["sample"] == sample)).to_numpy()
        at = pd.Index(section.obs.index.astype(str)).get_indexer(data.obs["obs_id"].astype(str)[rows])
        spatial[rows] = section.spatial[at]
        pictures[sample] = _picture(section.path, sample)
    data.obsm["spatial"], data.uns["spatial"] = spatial, pictures
    return data


def _picture(path: Path, sample: str) -> dict[str, Any]:
    """Return the section's pictures and scale factors, laid out as scanpy lays out Space Ranger's."""
    stored = read_elements(path, [f"uns/spatial/{sample}/{part}" for part in _PARTS])
    picture: dict[str, Any] = {"images": {}, "scalefactors": {}, "metadata": {}}
    for name, value in stored.items():
        kind, key = name.split("/")[-2:]
        picture[kind][key] = value
    return picture


_PARTS = (
    *(f"images/{level}" for level in ("hires", "lowres")),
    *(f"scalefactors/{name}" for name in ("tissue_hires_scalef", "tissue_lowres_scalef", "spot_diameter_fullres")),
)
