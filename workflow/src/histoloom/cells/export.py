"""A section's cells with classes, embeddings, projections and clusters, for scanpy, Xenium Explorer and QuPath."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.artefacts import dense, read_metadata, read_table
from histoloom.embeddings.artefact import open_embeddings
from histoloom.errors import InputError
from histoloom.exports.geojson import class_colours, write_section

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)
Files = Mapping[str, Sequence[Path]]


def export_cells(*, files: Files, out: Mapping[str, Path], crop: bool = True) -> None:
    """Write a section with a model's held-out predictions as ``h5ad``, ``groups`` (csv) and ``geojson``.

    h5ad: the section with its counts; obs ``label``, ``class`` (predicted; missing where no fold tested the cell),
    ``probability`` of it, and clusters and niches; obsm ``probabilities`` (n, classes), ``X_<encoder>``,
    ``X_<part>`` of projections and ``X_umap_<representation>``, NaN where a cell has none. groups: cell_id, group,
    color, as Xenium Explorer imports cell groups. geojson: outlines (discs without) of the predicted class.

    Parameters
    ----------
    files
        sample, predictions, target, and where there are: ``embeddings_<encoder>``, ``projections_<model>``, clusters
        (of this section), cells and nuclei (outlines).
    """
    import anndata

    sample = files["sample"][0]
    facts, table = read_metadata(sample), anndata.read_h5ad(sample)
    keys = pd.Index([f"{facts['cohort']}/{facts['sample']}/{name}" for name in table.obs_names], dtype=object)
    target = read_table(files["target"][0], layers=[])
    labelled = target.obs["label"].reindex(keys)
    names = _predict(table, keys, files["predictions"][0])
    colours = class_colours(names)
    for column, values in (("label", labelled.to_numpy(object)), ("class", table.obs["class"].to_numpy(object))):
        table.obs[column] = pd.Categorical(values, categories=names)
        table.uns[f"{column}_colors"] = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colours.values()]
    for role, paths in files.items():
        if role.startswith("embeddings_"):
            _embeddings(table, target, keys, role.removeprefix("embeddings_"), paths)
        elif role.startswith("projections_"):
            for path in paths:
                _columns(table, keys, path, {part: f"X_{part}_projected" for part in ("genes", "morphology")})
    for path in files.get("clusters", []):
        _clusters(table, keys, path)
    table.uns["classes"] = names
    table.write_h5ad(out["h5ad"])
    known = table.obs["class"].notna().to_numpy()
    classes = table.obs.loc[known, "class"].astype(str)
    code = classes.map(dict(zip(names, table.uns["class_colors"], strict=True)))
    groups = pd.DataFrame({"cell_id": table.obs_names[known], "group": classes.to_numpy(), "color": code.to_numpy()})
    groups.to_csv(out["groups"], index=False)
    logger.info("%s: %d of %d cells have a predicted class", sample, known.sum(), len(known))
    cells, nuclei = (next(iter(files.get(role, [])), None) for role in ("cells", "nuclei"))
    write_section(sample=out["h5ad"], out=out["geojson"], column="class", crop=crop, cells=cells, nuclei=nuclei)


def _predict(table: AnnData, keys: pd.Index, path: Path) -> list[str]:
    """Put a model's held-out predictions into a table, the mean over folds that test a cell; return the classes."""
    predicted = read_table(path, layers=[])
    own = [f"{c}/{s}/{o}" for c, s, o in predicted.obs[["cohort", "sample", "obs_id"]].to_numpy(str)]
    mean = pd.DataFrame(dense(predicted.X), columns=predicted.var_names).groupby(np.array(own, dtype=object)).mean()
    values = mean.reindex(keys).to_numpy(float)
    known = np.isfinite(values).all(axis=1)
    if not known.any():
        problem = "predicts no cell of the section."
        raise InputError(path, problem, "name an experiment that tests it.", code="export-not-predicted")
    names = list(predicted.var_names)
    classes = np.full(len(keys), None, dtype=object)
    classes[known] = np.array(names, dtype=object)[values[known].argmax(axis=1)]
    table.obs["class"] = classes
    table.obs["probability"] = np.where(known, np.max(np.where(known[:, None], values, 0), axis=1), np.nan)
    table.obsm["probabilities"] = values.astype(np.float32)
    return names


def _placed(keys: pd.Index, known: pd.Index, values: np.ndarray) -> np.ndarray:
    """Return rows of values in the order of keys, NaN for those that are not known."""
    at = known.get_indexer(keys)
    placed = np.full((len(keys), values.shape[1]), np.nan, np.float32)
    placed[at >= 0] = values[at[at >= 0]]
    return placed


def _columns(table: AnnData, keys: pd.Index, path: Path, names: Mapping[str, str]) -> None:
    read = read_table(path, layers=[], obsm=list(names))
    for name, stored in names.items():
        if name in read.obsm:
            table.obsm[stored] = _placed(keys, read.obs.index, read.obsm[name])


def _embeddings(table: AnnData, target: Any, keys: pd.Index, encoder: str, paths: Sequence[Path]) -> None:
    obs = target.obs[target.obs.index.isin(keys)]
    reader = open_embeddings(paths, target.metadata["tiles"]["spec"])
    table.obsm[f"X_{encoder}"] = _placed(keys, obs.index, reader.rows(reader.align(obs)))


def _clusters(table: AnnData, keys: pd.Index, path: Path) -> None:
    facts = read_metadata(path)["spec"]
    names = [source["name"] for source in facts["representations"]]
    obs = read_table(path, layers=[]).obs.reindex(keys)
    for column in ("niche", *(f"cluster_{name}" for name in names)):
        values = obs[column].replace("", None).to_numpy(object)
        table.obs[f"{facts['name']}_{column}"] = pd.Categorical(values)
    _columns(table, keys, path, {f"umap_{name}": f"X_umap_{facts['name']}_{name}" for name in names})
