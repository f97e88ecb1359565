"""What deconvolution methods share: spots with counts, genes shared with the reference, signatures in their order."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_elements
from histoloom.errors import InputError
from histoloom.genes import GeneKeys, GeneMatcher, preferred_ids
from histoloom.labels.artefact import LabelTask
from histoloom.references.readers import id_kind, is_mitochondrial
from histoloom.samples.section import open_section

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)
_LOST_MARKERS = 25


@dataclass(frozen=True)
class Section:
    """Spots of one section that can be labelled."""

    sample: str
    obs: pd.DataFrame  # sample, obs_id, patient, flag_low_umi
    counts: csr_matrix  # raw (n, G)
    genes: GeneKeys  # the G genes that can be matched with a reference's
    dropped: dict[str, int]  # spots left out, by reason


@dataclass(frozen=True)
class Prepared:
    """A group of sections ready for deconvolution."""

    obs: pd.DataFrame  # sample, obs_id, patient, flag_low_umi of all spots of the group
    counts: csr_matrix  # raw (n, G), genes as in signatures
    reference_columns: np.ndarray  # (G,) their columns in the reference
    signatures: pd.DataFrame  # mean counts per cell (G genes x T types)
    dropped: dict[str, dict[str, int]]  # spots left out, by sample and reason
    genes: dict[str, Any]  # report about genes, JSON


def read_section(path: Path, low_umi: int, matcher: GeneMatcher | None = None) -> Section:
    """Read a section's spots: in tissue, with counts.

    Spots with fewer than `low_umi` counts are flagged, not dropped. Without `matcher` genes are matched by name.
    """
    section = open_section(path)
    sample, counts = section.sample, section.counts
    total = np.asarray(counts.sum(axis=1)).ravel()
    inside = section.obs["in_tissue"].to_numpy(bool)
    keep = inside & (total > 0)
    names = {"sample": sample, "obs_id": section.obs.index, "patient": section.patient}
    obs = pd.DataFrame({**names, "flag_low_umi": total < low_umi})
    dropped = {"outside tissue": int((~inside).sum()), "no counts": int((inside & (total == 0)).sum())}
    logger.info("%s: %d spots, left out: %s", sample, int(keep.sum()), dropped)
    matcher = matcher or GeneMatcher(None)
    genes = matcher.keys(preferred_ids(section.var) if matcher.table else section.var.index, sample)
    # Depth and what is left out go by all counts; the fit sees the genes that have a key.
    counts = counts[keep] if len(genes.kept) == counts.shape[1] else counts[keep][:, genes.kept]
    return Section(sample, obs[keep].reset_index(drop=True), counts, genes, dropped)


def read_signatures(path: Path) -> pd.DataFrame:
    """Return a reference's signatures, genes x types."""
    parts = read_elements(path, ["var", "varm/signatures"])
    if "varm/signatures" not in parts:
        raise InputError(path, "holds no signatures.", "build the reference again.", code="labels-no-signatures")
    return parts["varm/signatures"].set_axis(parts["var"].index, axis=0)


def check_shared(
    section: Section, reference: GeneKeys, path: Path, spec: Mapping[str, Any], matcher: GeneMatcher
) -> int:
    """Return how many genes a section shares with the reference; too few are refused, with both kinds of names."""
    shared = int(section.genes.keys.isin(reference.keys).sum())
    total = len(reference.given)
    share = shared / max(total, 1)
    if shared >= spec["min_shared_genes"] and share >= spec["min_shared_share"]:
        return shared
    kinds = id_kind(section.genes.given), id_kind(reference.given)
    examples = ", ".join(map(str, section.genes.given[:3])), ", ".join(map(str, reference.given[:3]))
    if matcher.table is not None:
        remedy = (
            f"{matcher.release} knows {len(section.genes.keys)} of the section's {len(section.genes.given)} names and "
            f"{len(reference.keys)} of the reference's. It knows human genes: for another species set "
            "`genes: {match: name}` and give both sides the same names."
        )
    elif kinds[0] != kinds[1]:
        remedy = "set `genes: {match: ensembl}`, or name the reference's other column in `gene_key` or `gene_column`."
    else:
        remedy = "use a reference of the same species and naming, or lower min_shared_genes and min_shared_share."
    problem = (
        f"share {shared} of the reference's {total} genes ({share:.1%}); needed are {spec['min_shared_genes']} and "
        f"{spec['min_shared_share']:.0%}. The section has {kinds[0]} ({examples[0]}), the reference {kinds[1]} "
        f"({examples[1]})."
    )
    raise InputError(f"section '{section.sample}' and reference {path}", problem, remedy, code="labels-genes-shared")


def specificity(signatures: pd.DataFrame) -> pd.Series:
    """Return how much a gene differs between types: variance over types of log1p of the signature per 10,000 counts."""
    return _log_per_10k(signatures).var(axis=1, ddof=0)


def _log_per_10k(signatures: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(np.log1p(signatures / np.maximum(signatures.sum(axis=0), 1e-12) * 1e4))


def prepare(task: LabelTask) -> Prepared:
    """Read a group's sections and the reference, and bring them to the same genes.

    Genes are those of all sections of the group and of the reference, without mitochondrial ones; of these at most
    ``max_genes``, the ones that differ most between types (see `specificity`). They are matched by Ensembl id where
    the task has a table (`histoloom.genes`), else by name.
    """
    from scipy.sparse import vstack

    spec = task.spec
    if task.reference is None:
        raise InputError(task.where, "has no reference.", "name one in `reference`.", code="labels-no-reference")
    matcher = GeneMatcher(task.genes)
    everything = read_signatures(task.reference)
    known = matcher.keys(everything.index, f"reference {task.reference.stem}")
    signatures = everything.iloc[known.kept].set_axis(known.keys, axis=0)
    sections = [read_section(path, int(spec["low_umi"]), matcher) for path in task.samples]
    shared = {s.sample: check_shared(s, known, task.reference, spec, matcher) for s in sections if len(s.obs)}
    empty = [s.sample for s in sections if not len(s.obs)]
    if empty:
        problem = f"section {', '.join(empty)} has no spot with counts inside the tissue."
        remedy = "exclude it in the cohort sheet (column `exclude`, with the reason)."
        raise InputError(task.where, problem, remedy, code="labels-section-empty")
    inside = np.all([known.keys.isin(s.genes.keys) for s in sections], axis=0)
    if spec["drop_mitochondrial"]:
        inside &= ~(is_mitochondrial(known.names) | is_mitochondrial(known.keys) | matcher.mitochondrial(known.keys))
    common = known.keys[inside]
    if len(common) < spec["min_shared_genes"]:
        problem = f"only {len(common)} genes are in {task.reference} and in every section (each alone: {shared})."
        remedy = "use `group_by: section`, or exclude the section that was measured with other genes."
        raise InputError(task.where, problem, remedy, code="labels-genes-common")
    chosen = _most_specific(signatures.loc[common], spec["max_genes"])
    counts = vstack([s.counts[:, s.genes.keys.get_indexer(chosen)] for s in sections], format="csr")
    obs = pd.concat([s.obs for s in sections], ignore_index=True)
    # A spot can hold counts, yet none on the chosen genes; nothing can be said about it.
    usable = np.asarray(counts.sum(axis=1)).ravel() > 0
    dropped = {
        s.sample: {**s.dropped, "no counts on shared genes": int((~usable & (obs["sample"] == s.sample)).sum())}
        for s in sections
    }
    report = {
        **matcher.protocol(),
        "reference": known.counts,
        "sections": {s.sample: s.genes.counts for s in sections if s.genes.counts},
        "shared": shared,
        "in_every_section": len(common),
        "used": len(chosen),
        "max_genes": spec["max_genes"],
        "chosen_by": "all" if len(chosen) == len(common) else "variance over types of log1p(signature per 10,000)",
        "lost_markers": _lost_markers(everything, known.names[inside]),
    }
    logger.info("%s: %d spots, %d of %d shared genes", task.where, int(usable.sum()), len(chosen), len(common))
    for name, lost in report["lost_markers"].items():
        if lost:
            logger.info("%s: %d of %d markers are lost: %s", name, len(lost), _LOST_MARKERS, ", ".join(lost))
    columns = np.asarray(known.kept)[known.keys.get_indexer(chosen)]
    labelled = obs[usable].reset_index(drop=True)
    return Prepared(labelled, counts[usable], columns, signatures.loc[chosen], dropped, report)


def _most_specific(signatures: pd.DataFrame, most: int | None) -> pd.Index:
    if most is None or most >= len(signatures):
        return signatures.index
    rank = np.argsort(-specificity(signatures).to_numpy(), kind="stable")[:most]
    return signatures.index[np.sort(rank)]


def _lost_markers(signatures: pd.DataFrame, common: pd.Index) -> dict[str, list[str]]:
    """Return, by type, which of its 25 most specific genes are lost: not in every section, or by their name."""
    log = _log_per_10k(signatures)
    lost = {}
    for name in signatures.columns:
        excess = log[name] - log.drop(columns=name).max(axis=1)
        top = pd.Series(excess).sort_values(ascending=False, kind="stable").index[:_LOST_MARKERS]
        lost[str(name)] = [str(g) for g in top[~top.isin(common)]]
    return lost


Expected = Callable[[np.ndarray], np.ndarray]


def reconstruction(
    counts: csr_matrix, expected: Expected, samples: pd.Series, seed: int
) -> tuple[dict[str, float | None], np.ndarray]:
    """Compare observed counts CSR (n, G) with expected ones, which `expected` gives for row positions.

    Returns, by section, Pearson's r of log1p counts with log1p expected counts over all spots and genes (None if
    undefined), and the excess residual of each spot (n,). A spot's correlation falls with its depth even where the
    model is right. So the same number of spots is drawn from the fitted model (Poisson), and a spot's excess residual
    is r(drawn, expected) - r(observed, expected): about 0 where the model explains all but counting noise, and larger
    where tissue holds what the reference lacks. Each section has its own stream of draws, so that its numbers do not
    depend on the others.
    """
    by_section: dict[str, float | None] = {}
    excess = np.full(len(samples), np.nan)
    for sample in dict.fromkeys(samples):
        rows = np.flatnonzero((samples == sample).to_numpy())
        rng = np.random.default_rng([seed, zlib.crc32(str(sample).encode())])
        mean = np.maximum(np.asarray(expected(rows), dtype=float), 0)
        seen, fitted = np.log1p(counts[rows].toarray().astype(float)), np.log1p(mean)
        drawn = np.log1p(rng.poisson(mean).astype(float))
        excess[rows] = _row_correlation(drawn, fitted) - _row_correlation(seen, fitted)
        whole = _row_correlation(seen.reshape(1, -1), fitted.reshape(1, -1))[0]
        by_section[str(sample)] = round(float(whole), 6) if np.isfinite(whole) else None
    return by_section, excess


def _row_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    a = first - first.mean(axis=1, keepdims=True)
    b = second - second.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(scale > 0, (a * b).sum(axis=1) / scale, np.nan))
