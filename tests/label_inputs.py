"""Tiny sections and references for the tests of references and labels, written as the contracts of both say."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from histoloom.schemas import fill_defaults, load_schema

# Neither alphabetical nor ordered by size, so that a swap of columns shows.
TYPES = ["Tumour", "B cells", "Stroma", "Adipocytes"]


def signatures(n_genes: int = 120, types: list[str] | None = None, seed: int = 0) -> pd.DataFrame:
    """Mean counts per cell, genes x types: a common background and 20 marker genes per type; RNA content differs."""
    types = types or TYPES
    rng = np.random.default_rng(seed)
    base = np.repeat(rng.gamma(0.7, 0.5, size=(n_genes, 1)), len(types), axis=1)
    for i in range(len(types)):
        base[i * 20 : (i + 1) * 20, i] += rng.gamma(2.0, 3.0, size=20)
    base *= 1.0 + 0.5 * np.arange(len(types))
    return pd.DataFrame(base, index=[f"GENE{i}" for i in range(n_genes)], columns=types)


def write_section(
    path: Path,
    counts: np.ndarray,
    genes: list[str] | pd.Index,
    *,
    sample: str = "S1",
    patient: str = "P1",
    in_tissue: np.ndarray | None = None,
) -> Path:
    """Write a section's h5ad."""
    n = len(counts)
    data = ad.AnnData(
        csr_matrix(counts.astype(np.int32)),
        obs=pd.DataFrame(
            {
                "array_row": np.arange(n) // 8,
                "array_col": np.arange(n) % 8,
                "in_tissue": np.ones(n, dtype=bool) if in_tissue is None else in_tissue,
                "n_counts": counts.sum(axis=1),
            },
            index=[f"{i // 8}x{i % 8}" for i in range(n)],
        ),
        var=pd.DataFrame(index=pd.Index(list(genes))),
    )
    data.uns["histoloom"] = json.dumps({"cohort": "c", "sample": sample, "patient": patient})
    path.parent.mkdir(parents=True, exist_ok=True)
    data.write_h5ad(path)
    return path


def write_reference(path: Path, table: pd.DataFrame) -> Path:
    """Write a built reference that holds given signatures."""
    data = ad.AnnData(
        csr_matrix(np.rint(table.to_numpy().T).astype(np.int32)),
        obs=pd.DataFrame({"cell_type": list(table.columns), "donor": "d", "assay": "a"}).set_axis(
            [f"c{i}" for i in range(table.shape[1])]
        ),
        var=pd.DataFrame(index=table.index),
    )
    data.varm["signatures"] = table
    data.uns["histoloom"] = json.dumps({"types": list(table.columns), "identity": {"sha256": "0" * 64}})
    data.write_h5ad(path)
    return path


def write_gene_table(path: Path, previous: list[str] | pd.Index, extra: list[str] | None = None) -> Path:
    """Write a table in the layout of HGNC's complete set: each name is the previous symbol of a gene NEW0, NEW1, ...

    The ids are ENSG00000000000 and so on; `extra` are whole rows.
    """
    header = "hgnc_id\tsymbol\tname\tensembl_gene_id\tprev_symbol\talias_symbol"
    rows = [f"HGNC:{i}\tNEW{i}\tgene {i}\tENSG{i:011d}\t{name}\t" for i, name in enumerate(previous)]
    path.write_text("\n".join([header, *rows, *(extra or [])]) + "\n")
    return path


def true_cells(n: int, n_types: int, seed: int) -> np.ndarray:
    """Cells per spot and type: a few types dominate each spot, types differ in prevalence."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(0.4 * np.arange(1, n_types + 1), size=n)
    return np.rint(shares * rng.integers(15, 45, size=(n, 1)))


def full_spec(spec: dict[str, Any], schema: str) -> dict[str, Any]:
    """An entry with the defaults of its schema, as the plan gives it to a job."""
    filled = copy.deepcopy(spec)
    fill_defaults(filled, load_schema(schema))
    return filled


def label_spec(spec: dict[str, Any]) -> dict[str, Any]:
    return full_spec(spec, f"labels.{spec['method']}")


def reference_spec(spec: dict[str, Any]) -> dict[str, Any]:
    return full_spec(spec, f"reference.{spec['source']}")


def run_labels(spec: dict[str, Any], samples: list[Path], tmp: Path, **options: Any) -> Path:
    """Label one group and return its file."""
    from histoloom.labels import LabelTask, label_group

    out = tmp / f"{options.get('group', 'g')}.{options.get('seed', 0)}.h5ad"
    facts = {"cohort": "c", "group": "g", "seed": 0, "scratch": tmp / "scratch", **options}
    label_group(LabelTask(label_spec(spec), samples=samples, **facts), out)
    return out


def metadata(path: Path) -> dict[str, Any]:
    """Return an artefact's metadata."""
    return json.loads(ad.read_h5ad(path).uns["histoloom"])
