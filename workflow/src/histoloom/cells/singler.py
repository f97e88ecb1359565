"""Labels of cells by SingleR (doi:10.1038/s41590-018-0276-y), package ``singler``, and the pruning of the R package."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import read_elements
from histoloom.cells.labels import CellLabelTask
from histoloom.errors import InputError
from histoloom.genes import GeneMatcher, preferred_ids
from histoloom.labels.prepare import Section, check_shared
from histoloom.text_tables import delimiter_of, read_text_table

logger = logging.getLogger(__name__)
Floats = npt.NDArray[np.float64]

_LARGEST_LOG = 25.0
"""No logarithm of a count, a TPM or a microarray's intensity is larger."""
_TARGET_SUM = 1e4


@dataclass(frozen=True)
class Profiles:
    """Labelled expression profiles: log values (genes, profiles), names of genes, a label per profile."""

    values: Floats
    genes: pd.Index
    labels: list[str]


@dataclass(frozen=True)
class Annotation:
    """What SingleR says of n cells.

    `label` (n,); `delta` (n,), best minus next score after fine-tuning, NaN where one label is left; `margin` (n,),
    score of the label before fine-tuning minus the median over labels.
    """

    label: npt.NDArray[np.object_]
    delta: Floats
    margin: Floats
    n_markers: int


def label_singler(task: CellLabelTask) -> pd.DataFrame:
    """Return label, confidence (delta, cut to 0..1), delta, margin and pruned of the cells; index cell id."""
    spec, section = task.spec, task.section
    profiles = read_profiles(task.files["reference"], task.files.get("reference_labels"), spec)
    matcher = GeneMatcher(task.files.get("genes"))
    given = preferred_ids(section.var) if matcher.table else section.var.index
    own = matcher.keys(given[task.genes], task.where)
    known = matcher.keys(profiles.genes, f"reference {task.files['reference'].name}")
    counts = section.counts[task.used][:, np.flatnonzero(task.genes)[own.kept]]
    check_shared(Section(section.sample, section.obs, counts, own, {}), known, task.files["reference"], spec, matcher)
    shared = own.keys.isin(known.keys)
    on_markers = np.diff(counts[:, shared].indptr) > 0
    ids = section.obs.index[task.used][on_markers]
    task.count("with counts on the reference's genes", len(ids))
    reference = Profiles(profiles.values[known.kept], known.keys, profiles.labels)
    annotated = annotate(counts[on_markers].T, own.keys, reference, spec, task.threads)
    logger.info("%s: %d genes shared, %d markers", task.where, int(shared.sum()), annotated.n_markers)
    by_margin = prune_by_margin(annotated.label, annotated.margin, spec["n_mads"])
    by_delta = annotated.delta < spec["min_delta"]
    dropped = by_margin | by_delta
    words = "left out" if spec["pruned"] == "drop" else "kept"
    task.count(f"margin below its label's median by {spec['n_mads']:g} MADs (pruned, {words})", by_margin.sum())
    task.count(f"delta below {spec['min_delta']:g} (pruned, {words})", by_delta.sum())
    table = pd.DataFrame(
        {
            "label": annotated.label,
            "confidence": np.nan_to_num(annotated.delta, nan=1.0).clip(0, 1).round(6),
            "delta": annotated.delta.round(6),
            "margin": annotated.margin.round(6),
            "pruned": np.where(by_margin, "margin", np.where(by_delta, "delta", "")),
        },
        index=ids,
    )
    table = table if spec["pruned"] == "keep" else table[~dropped]
    task.count("labelled", len(table))
    return table


def annotate(counts: Any, genes: pd.Index, reference: Profiles, spec: Any, threads: int) -> Annotation:
    """Return SingleR's labels of cells; `counts` is (genes, cells), sparse; only the order within a cell matters."""
    import singler

    trained = singler.train_single(
        reference.values,
        reference.labels,
        ref_features=list(reference.genes),
        test_features=list(genes),
        marker_method=spec["marker_method"],
        num_de=spec["num_de"],
        aggregate=spec["aggregate"],
        num_threads=threads,
    )
    result = singler.classify_single(
        counts,
        trained,
        quantile=spec["quantile"],
        use_fine_tune=spec["fine_tune"],
        fine_tune_threshold=spec["fine_tune_threshold"],
        num_threads=threads,
    )
    scores = result.get_column("scores")
    names = list(scores.get_column_names())
    values = np.column_stack([np.asarray(scores.get_column(name), np.float64) for name in names])
    label = np.asarray(result.get_column("best"), dtype=object)
    assigned = values[np.arange(len(label)), pd.Index(names).get_indexer(pd.Index(label))]
    delta = np.asarray(result.get_column("delta"), np.float64)
    return Annotation(label, delta, assigned - np.median(values, axis=1), len(result.get_metadata()["used"]))


def prune_by_margin(label: npt.NDArray[np.object_], margin: Floats, n_mads: float) -> npt.NDArray[np.bool_]:
    """Return which cells (n,) SingleR's ``pruneScores`` would prune: margin below median - n MADs of their label."""
    by_label = pd.Series(margin).groupby(label)
    centre = by_label.transform("median")
    mad = (pd.Series(margin) - centre).abs().groupby(label).transform("median") * 1.4826
    return np.asarray(margin < centre - n_mads * mad, bool)


# The reference ---------------------------------------------------------------------------------------------------


def read_profiles(path: Path, labels: Path | None, spec: Any) -> Profiles:
    """Read a reference: h5ad (profiles x genes, labels in obs) or csv (genes x profiles, labels in a second csv).

    Profiles without a label are left out. ``values: log`` are taken as they are; ``linear`` (counts, TPM) are scaled to
    10,000 per profile and log1p is taken.
    """
    values, genes, names = _read_h5ad(path, spec) if path.suffix == ".h5ad" else _read_csv(path, labels, spec)
    if genes.has_duplicates:
        problem = f"gene '{genes[genes.duplicated()][0]}' is there twice."
        raise InputError(path, problem, "keep one row per gene, or name another `gene_key`.", "singler-gene-twice")
    if np.isinf(values).any():
        raise InputError(path, "holds values that are infinite.", "export it again.", code="singler-values")
    _check_scale(path, values, spec["values"])
    kept = (names != "").to_numpy()
    if names[kept].nunique() < 2:
        problem = f"has {names[kept].nunique()} labels in column '{spec['label_key']}'."
        raise InputError(path, problem, "name a column with several labels in `label_key`.", code="singler-labels")
    values = values[:, kept]
    if spec["values"] == "linear":
        values = np.log1p(values / np.maximum(np.nansum(values, axis=0), 1e-12) * _TARGET_SUM)
    logger.info("%s: %d genes, %d profiles, %d labels", path, *values.shape, names[kept].nunique())
    return Profiles(np.ascontiguousarray(values), genes, names[kept].tolist())


def _check_scale(path: Path, values: Floats, stated: str) -> None:
    """Refuse logarithms that are said to be linear, and the reverse: a log of a log has no use for markers."""
    largest, some = float(np.nanmax(values)), values[:, : min(values.shape[1], 20)]
    known = some[~np.isnan(some)]
    if (known < 0).any() and stated == "linear":
        raise InputError(path, "holds negative values.", "write `values: log`.", code="singler-values")
    whole = bool((known == np.round(known)).all())
    if stated == "linear" and largest <= _LARGEST_LOG and not whole:
        problem = f"is said to be linear, but its largest value is {largest:.3g}: these are logarithms already."
        raise InputError(path, problem, "write `values: log`.", code="singler-log-of-log")
    if stated == "log" and (largest > _LARGEST_LOG or whole):
        what = "whole numbers" if whole else f"up to {largest:.3g}"
        problem = f"is said to hold logarithms, but its values are {what}."
        raise InputError(path, problem, "write `values: linear`.", code="singler-not-log")


def _column(frame: pd.DataFrame, key: str, path: Path) -> pd.Series:
    if key not in frame:
        problem = f"has no column '{key}'; there are: {', '.join(map(str, frame.columns))}."
        raise InputError(path, problem, "name one of these in `label_key` or `gene_key`.", code="singler-column")
    column = frame[key].astype(object)
    return column.where(column.notna(), "").astype(str).str.strip()


def _read_h5ad(path: Path, spec: Any) -> tuple[Floats, pd.Index, pd.Series]:
    from scipy.sparse import issparse

    parts = read_elements(path, ["X", "obs", "var"])
    if len(parts) < 3:
        raise InputError(path, "lacks X, obs or var.", "write it with anndata.", code="singler-h5ad")
    x, var = parts["X"], parts["var"]
    genes = var.index.astype(str) if spec["gene_key"] is None else pd.Index(_column(var, spec["gene_key"], path))
    values = np.asarray((x.toarray() if issparse(x) else x).T, np.float64)
    return values, genes, _column(parts["obs"], spec["label_key"], path)


def _read_csv(path: Path, labels: Path | None, spec: Any) -> tuple[Floats, pd.Index, pd.Series]:
    if labels is None:
        remedy = "name the table of profiles with their labels in `reference_labels`."
        raise InputError(path, "holds no labels.", remedy, code="singler-no-labels")
    try:
        header = pd.read_csv(path, sep="\x00", nrows=0, engine="python").columns[0]
        table = pd.read_csv(path, sep=delimiter_of(header), index_col=0)
        values = table.to_numpy(np.float64)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        problem = f"is no table of genes x profiles ({error})."
        remedy = "export it as docs/tutorials/cell_labels.md shows."
        raise InputError(path, problem, remedy, code="singler-csv") from error
    given = read_text_table(labels)
    given = given.set_index(given.columns[0])
    names = _column(given, spec["label_key"], labels)
    if missing := [name for name in table.columns.astype(str) if name not in names.index]:
        problem = f"lacks {len(missing)} of the {table.shape[1]} profiles of {path}, first {missing[0]}."
        raise InputError(labels, problem, "export both from one object.", code="singler-profiles")
    return values, table.index.astype(str), names.loc[table.columns.astype(str)]
