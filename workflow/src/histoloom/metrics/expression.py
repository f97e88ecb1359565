"""Score probes: Pearson's r of each gene, put together in the benchmark's way and in ours.

=============  =====================================================================================================
metric         aggregation
=============  =====================================================================================================
``pcc``        per gene over the observations of a section -> sections of a patient -> patients (PROTOCOLS, headline)
``pcc_bench``  HEST-bench's: per gene over all observations of a test fold together -> genes -> folds
=============  =====================================================================================================

The second puts spots of several sections together and so rewards knowing a section's level; the two are never mixed.
HEST-bench averages an undefined gene into NaN; here it is counted and left out, and a row with any is not the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from histoloom.artefacts import identities_of, read_metadata
from histoloom.identity import canonical_json, make_identity
from histoloom.metrics.aggregate import over_types, roll_up
from histoloom.metrics.protocol import HEADLINE, stamp
from histoloom.metrics.rows import assemble, write_metrics
from histoloom.metrics.score import read_predictions
from histoloom.metrics.scored import Scored
from histoloom.stats import Floats, pearson_columns

logger = logging.getLogger(__name__)

AGAINST = "expression"
BENCH = "gene over the fold>genes>folds"
"""HEST-bench's aggregation, as its stamp says."""
_PLACE = ["fold", "cohort", "patient", "sample", "qc_flag"]


def _values(x: Floats, y: Floats, genes: Sequence[str], metric: str, place: Mapping[str, str]) -> pd.DataFrame:
    """Return a row per gene that was predicted here; genes outside a fold's panel are no rows."""
    asked = np.asarray(np.isfinite(y).any(axis=0), bool)
    value, n = pearson_columns(x[:, asked], y[:, asked])
    names = [gene for gene, wanted in zip(genes, asked.tolist(), strict=True) if wanted]
    return pd.DataFrame({"metric": metric, "target": names, "value": value, "n": n, **place}).assign(
        n_nan=np.isnan(value).astype(int)
    )


def section_rows(scored: Scored) -> pd.DataFrame:
    """Return ``pcc`` by section, patient and cohort, per gene and over genes."""
    truth = scored.reference["labels"]
    parts = []
    for key, index in sorted(scored.obs.groupby(_PLACE, observed=True, sort=True).indices.items()):
        place = dict(zip(_PLACE, cast("tuple[str, ...]", key), strict=True))
        parts.append(_values(scored.prediction[index], truth[index], scored.types, "pcc", place))
    return roll_up(pd.concat(parts, ignore_index=True), types=True)


def fold_rows(scored: Scored) -> pd.DataFrame:
    """Return ``pcc_bench`` by fold and over folds, per gene and over genes; flagged sections stay outside."""
    truth, plain = scored.reference["labels"], (scored.obs["qc_flag"] == "").to_numpy()
    cohort = "+".join(sorted(scored.obs["cohort"].unique()))
    parts = []
    for fold, index in sorted(scored.obs[plain].groupby("fold", sort=True).groups.items()):
        rows = index.to_numpy()
        place = {"fold": str(fold), "cohort": cohort, "patient": "", "sample": "", "qc_flag": "", "aggregation": "fold"}
        parts.append(_values(scored.prediction[rows], truth[rows], scored.types, "pcc_bench", place))
    if not parts:
        return pd.DataFrame()
    genes = pd.concat(parts, ignore_index=True)
    folds = over_types(genes)
    return pd.concat([genes, folds, _over_folds(genes), _over_folds(folds)], ignore_index=True)


def _over_folds(rows: pd.DataFrame) -> pd.DataFrame:
    """Average folds with equal weights; `n` counts folds, `n_nan` those without a value."""
    grouped = rows.groupby(["metric", "target", "cohort"], sort=True)["value"]
    table = pd.DataFrame({"value": grouped.mean(), "n": grouped.count(), "n_nan": grouped.size() - grouped.count()})
    return table.reset_index().assign(aggregation="cohort")


def score_probe(
    *,
    spec: Mapping[str, Any],
    experiment: str,
    encoder: str,
    predictions: Sequence[Path],
    target: Path,
    out: Path,
) -> None:
    """Write ``metrics/{experiment}/{encoder}.parquet``.

    Parameters
    ----------
    spec
        The experiment's entry.
    experiment, encoder
        Names, for the rows.
    predictions
        One artefact per way to choose alpha, the rows' variant.
    target
        The experiment's target.
    out
        File to write; columns as in `histoloom.metrics.rows`.

    Raises
    ------
    InputError
        If a file holds no prediction.
    """
    facts = read_metadata(target)
    parts = []
    for path in map(Path, predictions):
        scored = read_predictions(path)
        bench = fold_rows(scored)
        undefined = int(bench.loc[(bench["aggregation"] == "fold") & (bench["target"] != ""), "n_nan"].sum())
        common = stamp(spec, scored.metadata, facts, scored.obs) | {"undefined_genes": undefined}
        variant = str(scored.metadata["variant"])
        for rows, aggregation in ((section_rows(scored), HEADLINE), (bench, BENCH)):
            protocol = canonical_json({**common, "aggregation": aggregation})
            parts.append(assemble([rows]).assign(variant=variant, protocol=protocol, against=AGAINST))
        logger.info("%s/%s, %s alpha: %d undefined gene correlations", experiment, encoder, variant, undefined)
    frame = assemble(parts, experiment=experiment, model=encoder)
    identity = make_identity(
        "metrics",
        {"spec": dict(spec), "model": encoder},
        identities_of({"predictions": list(predictions), "target": target}),
    )
    write_metrics(frame, out, {"experiment": experiment, "model": encoder, "identity": identity})
