"""Compare every two sections by content and stop where one section stands on both sides under two names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from histoloom.artefacts import identities_of, write_parquet
from histoloom.audit.compare import PICTURE, SHARE, SPREAD, TWIN, Vocabulary
from histoloom.audit.fingerprint import Fingerprint, read_fingerprint
from histoloom.errors import InputError
from histoloom.genes import BY_ID, BY_NAME, load_gene_table
from histoloom.identity import make_identity
from histoloom.obs_keys import section_keys
from histoloom.references.readers import id_kind

logger = logging.getLogger(__name__)

COLUMNS = [
    "first", "second", "patient_first", "patient_second", "totals_shared", "totals_spread", "genes_shared", "n_genes",
    "picture", "verdict", "reasons", "sides",
]  # fmt: skip
_TRAINING = frozenset({"train", "val"})
_ALL = "all"


def sides_of(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return, for pairs of sections on different sides of a fold, the first such fold.

    `table`: fold table: fold, cohort, sample, role; the fold ``all`` has no test side.
    """
    rows = table[table["fold"] != _ALL][["fold", "cohort", "sample", "role"]].drop_duplicates()
    rows = rows.assign(name=section_keys(rows))
    trained, tested = rows[rows["role"].isin(_TRAINING)], rows[rows["role"] == "test"]
    pairs = trained.merge(tested, on="fold")[["name_x", "name_y", "fold"]].to_numpy(str)[::-1]
    return {(min(a, b), max(a, b)): fold for a, b, fold in pairs.tolist()}


def compare_sections(sections: Sequence[Fingerprint], sides: Mapping[tuple[str, str], str] | None) -> pd.DataFrame:
    """Compare all pairs of sections.

    `sides`: fold in which a pair (names in order) is on both sides; None: pairs of different patients, which any split
    by patient would put there. `COLUMNS`, one row per pair; ``sides`` is "" for a pair that is never on both sides.
    """
    vocabulary = Vocabulary(sections)
    rows = []
    for i, j in combinations(range(len(sections)), 2):
        first, second = sections[i], sections[j]
        evidence = vocabulary.compare(i, j)
        pair = (min(first.name, second.name), max(first.name, second.name))
        if sides is None:
            side = "" if first.patient == second.patient else "any split by patient"
        else:
            side = sides.get(pair, "")
        rows.append(
            {
                "first": first.name, "second": second.name,
                "patient_first": first.patient, "patient_second": second.patient,
                **asdict(evidence), "verdict": evidence.verdict, "reasons": evidence.reasons, "sides": side,
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _summary(rows: pd.DataFrame, most: int = 8) -> str:
    parts = [
        f"{row['first']} (patient {row['patient_first']}) and {row['second']} (patient {row['patient_second']}): "
        f"{row['reasons']}; {row['sides'] or 'never on both sides'}"
        for row in rows.head(most).to_dict("records")
    ]
    more = len(rows) - most
    return "; ".join(parts) + (f"; and {more} more pairs" if more > 0 else "")


def audit_sections(
    *, spec: Mapping[str, Any], samples: Sequence[Path], folds: Path | None = None, genes: Path | None = None, out: Path
) -> None:
    """Write what every two sections have in common, and stop where one is on both sides under two names.

    `spec`: ``on_match``: ``stop`` (default) or ``report``. `folds`: the experiment's folds; None: two patients are two
    sides. `genes`: table through which genes of several cohorts are matched (`histoloom.genes`); without it a cohort
    with ids and one with symbols are compared by totals and pictures only. `out`: parquet, `COLUMNS`. It finds one
    *section* under two names. Another section of one person under another name has no counts and no pixels in common
    with the first, and only the sheets' patient ids can tell.
    """
    table_of_genes = None if genes is None else load_gene_table(genes)
    sections = [read_fingerprint(path, table_of_genes) for path in samples]
    if genes is None:
        _warn_of_kinds(sections)
    sides = sides_of(pd.read_parquet(folds)) if folds is not None else None
    table = compare_sections(sections, sides)
    for verdict in ("same", "suspect"):
        rows = table[table["verdict"] == verdict]
        if len(rows):
            logger.warning("%s by content: %s", verdict, _summary(rows))
    leaks = table[(table["verdict"] == "same") & (table["sides"] != "")]
    if len(leaks) and spec.get("on_match", "stop") == "stop":
        problem = f"the same section is on both sides under two names: {_summary(leaks)}."
        remedy = "give both one patient id (folds keep them together), exclude one, or set `content_guard: report`."
        raise InputError("content guard", problem, remedy, code="section-on-both-sides")
    logger.info("%d sections, %d pairs: %d the same, %d of them on both sides", len(sections), len(table),
                int((table["verdict"] == "same").sum()), len(leaks))  # fmt: skip
    optional = {role: path for role, path in (("folds", folds), ("genes", genes)) if path is not None}
    limits = {"share": SHARE, "twin": TWIN, "picture": PICTURE, "spread": SPREAD}
    used = identities_of({"samples": list(samples), **optional})
    identity = make_identity("audit", {"spec": dict(spec), "limits": limits}, used)
    facts = {"on_match": spec.get("on_match", "stop"), "genes_matched_by": BY_ID if genes else BY_NAME}
    write_parquet(table, out, {"limits": limits, **facts, "identity": identity})


def _warn_of_kinds(sections: Sequence[Fingerprint]) -> None:
    kinds: dict[str, list[str]] = {}
    for section in sections:
        if section.genes:
            kinds.setdefault(id_kind(section.genes), []).append(section.name)
    if len(kinds) > 1:
        summary = "; ".join(f"{kind}: {', '.join(names[:3])}, {len(names)} in all" for kind, names in kinds.items())
        problem = "sections with other kinds of gene names are compared by totals and pictures only"
        logger.warning("%s (%s); `genes: {match: ensembl}` matches them", problem, summary)
