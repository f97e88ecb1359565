"""Clusters of a section's cells in embeddings and projections, and its spatial niches, as a table of cells."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import Table, identities_of, read_table, write_table
from histoloom.cells.niches import find_niches, neighbourhood_composition
from histoloom.embeddings.artefact import open_embeddings
from histoloom.errors import InputError
from histoloom.folds import read_folds, roles_of
from histoloom.identity import make_identity
from histoloom.targets import read_target

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)
Files = Mapping[str, Sequence[Path]]
Floats = npt.NDArray[np.float32]


def cluster_cells(*, spec: Mapping[str, Any], cohort: str, sample: str, files: Files, out: Path) -> None:
    """Write the clusters and niches of a section.

    h5ad without columns: obs as in the target, and ``block`` (a square of ``block_um``), ``niche``, ``clustered`` and
    per representation ``cluster_<name>`` ("" where not clustered); obsm ``spatial`` (level-0 px) and
    ``umap_<name>`` (n, 2), NaN where not clustered.

    Parameters
    ----------
    spec
        The entry (``clusters.schema.yaml``) with its ``name`` and the fold filled in.
    files
        target, folds, ``embeddings_<encoder>``, ``projections_<model>`` (of the fold).
    """
    target = read_target(files["target"][0])
    own = ((target.obs["cohort"] == cohort) & (target.obs["sample"] == sample)).to_numpy()
    obs = target.obs[own].copy()
    obs["clustered"] = _chosen(spec, target.obs, files)[own]
    chosen = obs["clustered"].to_numpy()
    where, n = f"{cohort}/{sample}", int(chosen.sum())
    if n <= spec["neighbours"] or len(obs) <= spec["niche_neighbours"]:
        problem = f"has {n} cells to cluster, of {len(obs)} with a label."
        raise InputError(where, problem, "lower `neighbours`, or cluster all cells.", code="clusters-too-few-cells")
    logger.info("%s: %d of %d labelled cells are clustered", where, n, len(obs))
    um = obs[["x", "y"]].to_numpy(float) * obs[["um_per_px"]].to_numpy(float)
    obs["block"] = _blocks(um, spec["block_um"])
    composition = neighbourhood_composition(um, obs["label"], spec["niche_neighbours"])
    obs["niche"] = [f"niche {number}" for number in find_niches(composition, spec["n_niches"], spec["seed"])]
    obsm: dict[str, npt.NDArray[Any]] = {"spatial": obs[["x", "y"]].to_numpy(np.float64)}
    for source in spec["representations"]:
        name = source["name"]
        values = read_representation(source, obs[chosen], files, target.metadata["tiles"]["spec"])
        clusters, umap = leiden_and_umap(values, spec)
        logger.info("%s: %s: %d clusters", where, name, len(np.unique(clusters)))
        obs[f"cluster_{name}"] = ""
        obs.loc[chosen, f"cluster_{name}"] = clusters
        obsm[f"umap_{name}"] = np.full((len(obs), 2), np.nan, np.float32)
        obsm[f"umap_{name}"][chosen] = umap
    identity = make_identity("clusters", {"spec": dict(spec)}, identities_of(files))
    metadata = {"clusters": spec["name"], "cohort": cohort, "sample": sample, "spec": dict(spec), "identity": identity}
    write_table(Table(obs, pd.DataFrame(), np.zeros((len(obs), 0), np.float32), {}, obsm, metadata), out)


def _chosen(spec: Mapping[str, Any], obs: pd.DataFrame, files: Files) -> npt.NDArray[np.bool_]:
    if spec["cells"] == "all":
        return np.ones(len(obs), bool)
    role = roles_of(read_folds(files["folds"][0])[0], obs)[spec["fold"]]
    return np.asarray(role == "test", bool)


def _blocks(um: npt.NDArray[np.float64], side: float) -> list[str]:
    """Return the name of the square that each cell lies in."""
    row, column = (np.floor((um - um.min(axis=0)) / side).astype(int)).T
    return [f"{a}_{b}" for a, b in zip(row, column, strict=True)]


def read_representation(source: Mapping[str, Any], obs: pd.DataFrame, files: Files, tiles: Mapping[str, Any]) -> Floats:
    """Return (n, D) embeddings or projections of cells, by the files' own ids."""
    if encoder := source.get("encoder"):
        reader = open_embeddings(files[f"embeddings_{encoder}"], tiles)
        return reader.rows(reader.align(obs))
    path, part = files[f"projections_{source['model']}"][0], source["part"]
    table = read_table(path, obsm=[] if part == "joint" else [part])
    at = table.obs.index.get_indexer(obs.index)
    if (at < 0).any():
        problem = f"has no projection of {int((at < 0).sum())} cells, such as {obs.index[at < 0][0]}."
        raise InputError(path, problem, "remove it, so that it is made anew.", code="clusters-projections")
    values: Floats = (table.X if part == "joint" else table.obsm[part])[at]
    return values


def neighbour_graph(values: Floats, n_neighbours: int, seed: int) -> AnnData:
    """Return cells with scanpy's graph of their nearest neighbours, exact ones whatever the number of cells.

    scanpy's own choice beyond 8,192 cells, pynndescent, is approximate, and fails with pynndescent 0.7.
    """
    import anndata
    import scanpy

    table = anndata.AnnData(np.ascontiguousarray(values, np.float32))
    scanpy.pp.neighbors(table, n_neighbors=n_neighbours, use_rep="X", random_state=seed, transformer="sklearn")
    return table


def leiden_and_umap(values: Floats, spec: Mapping[str, Any]) -> tuple[npt.NDArray[np.object_], Floats]:
    """Return the clusters (n,) and the UMAP (n, 2) of cells, on one graph of neighbours.

    Euclidean distance on the values as they are, neither scaled nor reduced. Clusters are named "0", "1", ... by size.
    """
    import scanpy

    table = neighbour_graph(values, spec["neighbours"], spec["seed"])
    # igraph's Leiden knows undirected graphs only.
    way = {"flavor": "igraph", "directed": False} if spec["leiden"] == "igraph" else {"flavor": "leidenalg"}
    chosen = {"resolution": spec["resolution"], "n_iterations": spec["n_iterations"], "random_state": spec["seed"]}
    with warnings.catch_warnings():
        # Its defaults will change; nothing is left to them here.
        warnings.filterwarnings("ignore", "In the future, the default backend for leiden", FutureWarning)
        scanpy.tl.leiden(table, **chosen, **way)
    scanpy.tl.umap(table, random_state=spec["seed"])
    _, code = np.unique(table.obs["leiden"].to_numpy(str), return_inverse=True)
    # igraph does not name them by size.
    rank = np.argsort(np.argsort(-np.bincount(code), kind="stable"), kind="stable")
    return rank[code].astype(str).astype(object), np.asarray(table.obsm["X_umap"], np.float32)
