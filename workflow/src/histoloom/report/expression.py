"""What an experiment on expression shows beyond any other: gene sets scored three ways, and figures of genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histoloom.metrics.gene_sets import read_gene_sets
from histoloom.report.gene_figures import draw_gene_figures
from histoloom.report.protocols import write_protocols

FIGURES = ("pcc", "profiles", "gene_gene", "maps")


def report_expression(
    *,
    spec: Mapping[str, Any],
    metrics: Sequence[Path],
    ceilings: Sequence[Path],
    predictions: Sequence[Path],
    target: Path,
    folds: Path,
    samples: Sequence[Path],
    out: Mapping[str, Path],
) -> None:
    """Write the table (``csv``, ``md``, ``html``) and draw `FIGURES`.

    ``shown`` of `spec` names the models of `predictions`, in the same order: those that predict from morphology.
    """
    sets = read_gene_sets(spec.get("gene_sets") or {}, target, folds)
    write_protocols(spec=spec, metrics=metrics, sets=sets, ceilings=ceilings, out=out)
    draw_gene_figures(
        experiment=str(spec.get("title") or spec["name"]),
        predictions=dict(zip(spec["shown"], predictions, strict=True)),
        samples=samples,
        genes=spec.get("gene_maps") or [],
        out={name: out[name] for name in FIGURES},
    )
