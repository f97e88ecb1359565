"""Readers of single-cell references: a labelled h5ad, or 10x matrix folders with annotation tables.

A reader gives the cells' labels at once and their counts on demand, so that a reference of 700,000 cells costs no more
memory than the cells that are chosen from it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.content import refuse_pages
from histoloom.errors import InputError
from histoloom.genes import ENSEMBL_GENE
from histoloom.samples.counts import GENES, read_mtx
from histoloom.text_tables import read_text_table

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)
Files = Mapping[str, Path | Sequence[Path]]


@dataclass(frozen=True)
class ReferenceCells:
    """Labelled cells, counts on demand."""

    obs: pd.DataFrame  # cell_type, donor, assay (str; an empty cell_type means not annotated)
    genes: pd.Index  # may hold duplicates
    read: Callable[[np.ndarray], csr_matrix]  # counts of cells by position, ascending: CSR (n, G)
    where: str  # what to name in an error
    report: dict[str, Any] = field(default_factory=dict)


def paths_of(files: Files, role: str) -> list[Path]:
    """Return the files of a role, of which there may be one."""
    value = files[role]
    return [Path(value)] if isinstance(value, (str, Path)) else [Path(p) for p in value]


def text_column(frame: pd.DataFrame, key: str | None, where: str, option: str, constant: str) -> pd.Series:
    """Return a column as text, empty where missing; a constant when no column is named."""
    if key is None:
        return pd.Series(constant, index=frame.index, dtype=object)
    if key not in frame.columns:
        problem = f"has no column '{key}' ({option}); its columns: {', '.join(map(str, frame.columns)) or 'none'}."
        raise InputError(where, problem, f"set {option} to one of these.", code="reference-column")
    column = frame[key].astype(object)
    return column.where(column.notna(), "").astype(str).str.strip()


def describe_cells(
    frame: pd.DataFrame, keys: Mapping[str, Any], where: str, constants: Mapping[str, str]
) -> pd.DataFrame:
    """Return cell_type, donor and assay of each cell, by the columns that ``<name>_key`` name."""
    names = {"cell_type": "", **constants}
    columns = {n: text_column(frame, keys[f"{n}_key"], where, f"{n}_key", constant) for n, constant in names.items()}
    return pd.DataFrame(columns)


def read_h5ad_reference(files: Files, spec: Mapping[str, Any]) -> ReferenceCells:
    """Open a labelled h5ad, the one file of role ``h5ad``."""
    import anndata as ad
    import h5py

    (path,) = paths_of(files, "h5ad")
    if not path.is_file():
        raise InputError(path, "the reference does not exist.", "fix the reference's `path`.", code="reference-missing")
    refuse_pages([path])
    try:
        with h5py.File(path, "r") as handle:
            obs = ad.io.read_elem(handle["obs"])
            places = _count_places(handle, spec["counts"], path)
            place = _first_raw(handle, places, path)
            var = ad.io.read_elem(handle["raw/var" if place.startswith("raw") else "var"])
    except (OSError, KeyError) as error:
        problem, remedy = f"is not a readable h5ad ({error}).", "write it again with anndata."
        raise InputError(path, problem, remedy, code="reference-unreadable") from error
    where = str(path)
    cells = describe_cells(obs, spec, where, {"donor": "one", "assay": "one"})
    genes = var.index if spec["gene_key"] is None else text_column(var, spec["gene_key"], where, "gene_key", "")

    def read(rows: np.ndarray) -> csr_matrix:
        with h5py.File(path, "r") as handle:
            return _rows(handle[place], rows)

    logger.info("%s: %d cells, %d genes, counts from %s", path, len(cells), len(genes), place)
    return ReferenceCells(cells, pd.Index(genes.astype(str)), read, where, {"counts_from": place})


def _count_places(handle: Any, counts: str, path: Path) -> list[str]:
    """Return where in the file to look for raw counts, in order."""
    known = [p for p in ("X", "raw/X") if p in handle]
    known += [f"layers/{name}" for name in handle.get("layers", {})]
    if counts == "auto":
        return [p for p in ("X", "raw/X", "layers/counts", "layers/raw") if p in known]
    wanted = {"X": "X", "raw": "raw/X"}.get(counts, f"layers/{counts}")
    if wanted not in known:
        problem = f"has no '{counts}' (counts); found: {', '.join(known)}."
        raise InputError(path, problem, "set `counts` to one of these.", code="reference-counts")
    return [wanted]


def _first_raw(handle: Any, places: list[str], path: Path) -> str:
    """Return the first place that holds counts; looks at the first cells only, the chosen cells are checked later."""
    problems = []
    for place in places:
        node = handle[place]
        head = node["data"][:100_000] if hasattr(node, "keys") else node[:100]  # a sparse matrix is a group
        problem = count_problem(np.asarray(head))
        if problem is None:
            return place
        problems.append(f"{place} {problem}")
    remedy = "deconvolution needs raw integer counts: put them in X, raw.X or a layer and name it in `counts`."
    reasons = "; ".join(problems) or "no matrix found"
    raise InputError(path, f"holds no raw counts: {reasons}.", remedy, code="reference-no-raw")


def count_problem(values: np.ndarray) -> str | None:
    """Say why values are not raw counts, or None."""
    if values.dtype.kind not in "iu" and not np.isfinite(values).all():
        return "has missing or infinite values"
    if values.size and values.min() < 0:
        return "has negative values"
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():
        example = values[values != np.rint(values)].ravel()[0]
        return f"has fractional values such as {example:.4g} (normalised or log-transformed)"
    return None


def _rows(node: Any, rows: np.ndarray) -> csr_matrix:
    import anndata as ad
    from scipy.sparse import csr_matrix

    if not hasattr(node, "keys"):
        read = node[rows]
        # scipy has no sparse matrices of half precision.
        return csr_matrix(read.astype(np.float32) if read.dtype == np.float16 else read)
    stored = ad.io.sparse_dataset(node)
    # Rows of a CSC file cannot be read alone; a slice over half the file is no cheaper than all of it.
    if stored.format == "csc" or len(rows) > stored.shape[0] / 2:
        return csr_matrix(stored.to_memory())[rows]
    return csr_matrix(stored[rows])


def read_mtx_reference(files: Files, spec: Mapping[str, Any]) -> ReferenceCells:
    """Read 10x matrix folders, each with an annotation table, as one reference over the genes that all share.

    The roles ``folders`` and ``annotations`` hold as many files, in the order of ``spec["samples"]``.
    """
    from scipy.sparse import vstack

    folders, tables = paths_of(files, "folders"), paths_of(files, "annotations")
    parts, cells, report = [], [], {}
    parts_spec: Sequence[Mapping[str, Any]] = spec.get("samples") or [{}] * len(folders)
    for folder, table, part in zip(folders, tables, parts_spec, strict=True):
        matrix, barcodes, features = read_mtx(folder)
        kept = (features["type"] == GENES).to_numpy()
        genes = pd.Index(features.loc[kept, "name" if spec["gene_column"] == "symbol" else "id"])
        matrix = matrix[:, np.flatnonzero(kept)]
        annotation = _read_annotation(table, barcodes, folder, spec, part)
        keep = np.flatnonzero(pd.Index(barcodes).isin(annotation.index))
        parts.append((matrix[keep], genes))
        cells.append(annotation.loc[pd.Index(barcodes[keep])])
        report[folder.name] = {"cells": len(barcodes), "annotated": len(keep)}
        logger.info("%s: %d cells, %d of them annotated, %d genes", folder, len(barcodes), len(keep), len(genes))
    shared = parts[0][1]
    if any(not genes.equals(shared) for _, genes in parts):
        # A name that occurs twice cannot be aligned between folders, so such genes go here already.
        unique = [genes[~genes.duplicated(keep=False)] for _, genes in parts]
        shared = unique[0][np.all([unique[0].isin(g) for g in unique], axis=0)]
        parts = [(matrix[:, genes.get_indexer_for(shared)], shared) for matrix, genes in parts]
    counts = vstack([matrix for matrix, _ in parts], format="csr")
    where, facts = ", ".join(map(str, folders)), {"folders": report, "genes_shared": len(shared)}
    return ReferenceCells(pd.concat(cells, ignore_index=True), shared, lambda rows: counts[rows], where, facts)


def _read_annotation(
    path: Path, barcodes: np.ndarray, folder: Path, spec: Mapping[str, Any], part: Mapping[str, Any]
) -> pd.DataFrame:
    """Read an annotation table; index = cell id, columns cell_type, donor, assay."""
    if not path.is_file():
        raise InputError(path, "does not exist.", "fix the reference's `samples`.", code="reference-annotation-missing")
    refuse_pages([path])
    frame = read_text_table(path)
    where = str(path)
    ids = text_column(frame, spec["cell_id_key"], where, "cell_id_key", "")
    given = {name: part[name] for name in ("donor", "assay") if part.get(name)}
    keys = {**spec, **{f"{name}_key": None for name in given}}
    table = describe_cells(frame, keys, where, {"donor": folder.name, "assay": "one", **given}).set_axis(pd.Index(ids))
    if table.index.has_duplicates:
        twice = table.index[table.index.duplicated()][0]
        raise InputError(where, f"cell '{twice}' has two rows.", "keep one row per cell.", code="reference-cell-twice")
    if not table.index.isin(barcodes).any():
        examples = [list(names)[:1] for names in (table.index, barcodes)]
        problem = f"shares no cell with {folder}: ids such as {examples[0]} against barcodes such as {examples[1]}."
        remedy = "set cell_id_key to the column that holds the barcodes as the matrix spells them."
        raise InputError(where, problem, remedy, code="reference-cells")
    return table[table.index.isin(barcodes)]


# The 13 protein-coding human mitochondrial genes (HGNC: "mitochondrially encoded protein coding") by Ensembl id.
_MITOCHONDRIAL_IDS = frozenset(
    f"ENSG00000{n}"
    for n in (
        "198888", "198763", "198804", "198712", "228253", "198899", "198938",
        "198840", "212907", "198886", "198786", "198695", "198727",
    )
)  # fmt: skip


def is_mitochondrial(names: Sequence[str] | pd.Index) -> np.ndarray:
    """Return a mask of mitochondrial genes: symbols that start with ``MT-`` in any case, or the human Ensembl ids."""
    return np.array([n.upper().startswith("MT-") or n.split(".")[0] in _MITOCHONDRIAL_IDS for n in names], dtype=bool)


def id_kind(names: Sequence[str] | pd.Index) -> str:
    """Say what most of the names are: ``"Ensembl ids"``, ``"symbols"`` or ``"numbers"``."""
    head = [str(n) for n in names[:2000]]
    if not head:
        return "no names"
    if sum(bool(ENSEMBL_GENE.fullmatch(n)) for n in head) > len(head) / 2:
        return "Ensembl ids"
    if sum(n.isdigit() for n in head) > len(head) / 2:
        return "numbers"
    return "symbols"


def passes_gene_filter(
    n_cells: np.ndarray,
    totals: np.ndarray,
    n_obs: int,
    *,
    cell_count_cutoff: float,
    cell_percentage_cutoff2: float,
    nonz_mean_cutoff: float,
) -> np.ndarray:
    """Return a mask (G,) of the genes that cell2location's filter keeps.

    The rule of ``cell2location.utils.filtering.filter_genes`` (Kleshchevnikov et al. 2022, doi
    10.1038/s41587-021-01139-4): genes detected in more than ``cell_percentage_cutoff2`` of the `n_obs` cells, and genes
    detected in more than ``cell_count_cutoff`` cells whose mean count over these cells is above ``nonz_mean_cutoff``.
    The original is not called: it draws a figure, and its import takes longer than building a reference.
    """
    nonzero_mean = np.divide(totals, n_cells, out=np.zeros(len(n_cells), dtype=float), where=n_cells > 0)
    common = n_cells > n_obs * cell_percentage_cutoff2
    strong = (n_cells > cell_count_cutoff) & (nonzero_mean > nonz_mean_cutoff)
    return np.asarray((common | strong) & (n_cells > 0))
