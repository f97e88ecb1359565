"""Build a target: join sections, kept tiles and labels, and apply the experiment's recipe to the abundances.

Nothing is fitted here: the recipe works on each observation alone, so the target may hold training and test
patients side by
side. What is fitted (scaling of a target, for one) belongs to a model and sees training observations only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import KEY, identities_of, read_metadata
from histoloom.embeddings.artefact import embedded_keys
from histoloom.errors import InputError
from histoloom.identity import canonical_json, make_identity
from histoloom.obs_keys import obs_keys
from histoloom.targets.artefact import plain
from histoloom.targets.sections import observe, one_tile_spec, read_elements

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Abundance:
    """Labels of one cohort: (n, T) ``values`` by ``sample/obs_id`` index and ``types``."""

    path: Path
    keys: pd.Index
    values: np.ndarray
    types: list[str]
    metadata: Mapping[str, Any]


def read_abundance(path: Path, statistic: str = "mean") -> Abundance:
    """Read one cohort's labels.

    Parameters
    ----------
    path
        ``labels/{labels}/{cohort}.h5ad``.
    statistic
        ``mean`` (X) or the name of a layer, e.g. ``q05``.

    Raises
    ------
    InputError
        If the statistic is not there, a type or an observation occurs twice, or values are infinite.
    """
    name = "X" if statistic == "mean" else f"layers/{statistic}"
    parts = read_elements(path, ["obs", "var", name])
    if name not in parts:
        raise InputError(
            path,
            f"these labels have no statistic '{statistic}'.",
            "set `target.statistic: mean` or use cell2location labels.",
        )
    obs = plain(parts["obs"])
    values = parts[name]
    values = np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float64)
    keys = obs_keys(obs["sample"], obs["obs_id"])
    types = [str(item) for item in parts["var"].index]
    for what, index in (("observation", keys), ("cell type", pd.Index(types))):
        twice = index[index.duplicated()]
        if len(twice):
            raise InputError(path, f"{what} '{twice[0]}' occurs twice.", "remove the labels and run again.")
    if np.isinf(values).any():
        raise InputError(
            path,
            "holds infinite abundances.",
            "look at the label method's QC; remove the labels and run again.",
        )
    return Abundance(path, keys, values, types, read_metadata(path))


def apply_recipe(values: np.ndarray, transform: str, where: str | Path) -> np.ndarray:
    """Transform abundances observation by observation.

    Parameters
    ----------
    values
        (n, T) abundances; NaN where unknown.
    transform
        ``none``, ``log1p`` or ``proportion`` (of the row's known total; a row without any becomes NaN).
    where
        File the values came from, for messages.

    Raises
    ------
    InputError
        For negative abundances under log1p or proportion.
    """
    if transform == "none":
        return values
    if (values < 0).any():
        raise InputError(where, f"negative abundances cannot be made {transform}.", "set `target.transform: none`.")
    if transform == "log1p":
        return np.log1p(values)
    total = np.nansum(values, axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, values / total, np.nan)


def _by_cohort(paths: Sequence[Path], statistic: str) -> dict[str, Abundance]:
    """Read label files by cohort (its metadata, else the file's name)."""
    found = {}
    for path in paths:
        labels = read_abundance(Path(path), statistic)
        found[str(labels.metadata.get("cohort", Path(path).stem))] = labels
    return found


def _common_types(labels: Mapping[str, Abundance]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the types all cohorts have, in the first cohort's order, and each cohort's further ones."""
    shared = set.intersection(*(set(item.types) for item in labels.values()))
    first = next(iter(labels.values()))
    types = [name for name in first.types if name in shared]
    if not types:
        raise InputError(
            " + ".join(str(item.path) for item in labels.values()),
            "the cohorts' labels share no cell type.",
            "label all cohorts of an experiment with the same reference.",
        )
    extra = {cohort: [t for t in item.types if t not in shared] for cohort, item in labels.items()}
    return types, {cohort: names for cohort, names in extra.items() if names}


def _aligned(labels: Abundance, keys: pd.Index, types: Sequence[str], transform: str) -> np.ndarray:
    """Return (len(keys), len(types)) after the recipe; NaN where the labels lack an observation or a type."""
    # The recipe comes before types are chosen: a proportion is of all types the labels know.
    values = apply_recipe(labels.values, transform, labels.path)
    rows = labels.keys.get_indexer(keys)
    columns = pd.Index(labels.types).get_indexer(pd.Index(types))
    out = np.full((len(keys), len(types)), np.nan)
    ok_rows, ok_columns = rows >= 0, columns >= 0
    out[np.ix_(ok_rows, ok_columns)] = values[np.ix_(rows[ok_rows], columns[ok_columns])]
    return out


@dataclass(frozen=True)
class _Section:
    obs: pd.DataFrame
    values: np.ndarray
    truth: np.ndarray | None
    step: dict[str, Any]
    tiles_spec: Mapping[str, Any]


def _join_section(
    sample: Path,
    tile: Path,
    labels: Mapping[str, Abundance],
    truth: Mapping[str, Abundance],
    types: list[str],
    transform: str,
    embedded: set[str] | None,
) -> _Section:
    """Join one section with its tiles and labels, counting what falls at each step."""
    section = observe(sample, tile)
    cohort, name, kept = section.cohort, section.sample, section.kept
    if cohort not in labels:
        raise InputError(
            sample,
            f"no labels for cohort '{cohort}'; there are: {', '.join(labels)}.",
            "label this cohort too.",
        )
    keys = obs_keys(name, section.obs.index)
    values = _aligned(labels[cohort], keys, types, transform)
    present = np.isin(keys, labels[cohort].keys)
    known = np.isfinite(values).all(axis=1)
    featured = np.ones(len(keys), bool) if embedded is None else np.isin(obs_keys(cohort, keys), list(embedded))
    joined = kept & present & known & featured
    step = {
        **section.step, "labelled": int((kept & present).sum()), "joined": int(joined.sum()),
        "label_nan": int((kept & present & ~known).sum()),
        **({} if embedded is None else {"embedded": int((kept & present & known & featured).sum())}),
    }  # fmt: skip
    if not joined.any():
        raise InputError(
            f"{cohort}/{name}",
            f"no observation is in tissue, on a kept tile and labelled ({_counts(step)}).",
            "look at the section's tile picture and labels, or exclude it: write a reason in the sheet's "
            "`exclude` column.",
        )
    ground_truth = _aligned(truth[cohort], keys, types, transform) if cohort in truth else None
    return _Section(
        section.obs.set_axis(f"{cohort}/" + keys).loc[joined],
        values[joined],
        None if ground_truth is None else ground_truth[joined],
        step,
        section.tiles_spec,
    )


def _counts(step: Mapping[str, Any]) -> str:
    names = ("observations", "in_tissue", "kept", "labelled", "joined")
    return ", ".join(f"{step[name]} {name}" for name in names)


def build_target(
    *,
    spec: Mapping[str, Any],
    samples: Sequence[Path],
    tiles: Sequence[Path],
    labels: Sequence[Path],
    truth: Sequence[Path],
    out: Path,
    embeddings: Mapping[str, Sequence[Path]] | None = None,
) -> None:
    """Write ``targets/{experiment}/target.h5ad``.

    Parameters
    ----------
    spec
        The experiment's entry: ``tiles``, ``labels``, ``truth``, ``target`` (statistic, transform).
    samples, tiles
        Section and tile artefacts, in the same order.
    labels, truth
        Gathered labels and ground truth per cohort; ``truth`` may be empty.
    embeddings
        By encoder, embeddings that may lack kept tiles (features of other software): observations that any of these
        encoders lacks are left out, so that all models of the experiment are compared on the same ones.
    out
        File to write: X (n_obs, n_types) float64, layer ``truth`` where there is one.

    Raises
    ------
    InputError
        If a section keeps no observation, the statistic is missing, or every column is constant.
    """
    statistic, transform = spec["target"]["statistic"], spec["target"]["transform"]
    by_cohort = _by_cohort(labels, statistic)
    ground_truth = _by_cohort(truth, "mean")
    types, types_dropped = _common_types(by_cohort)
    if types_dropped:
        logger.warning("types that not all cohorts have are left out: %s", types_dropped)
    embedded = embedded_keys(embeddings) if embeddings else None
    sections = [
        _join_section(Path(sample), Path(tile), by_cohort, ground_truth, types, transform, embedded)
        for sample, tile in zip(samples, tiles, strict=True)
    ]
    values = np.concatenate([section.values for section in sections])
    constant = [name for name, column in zip(types, values.T, strict=True) if column.min() == column.max()]
    if len(constant) == len(types):
        raise InputError(
            f"labels '{spec['labels']}'",
            "every label column is constant.",
            "look at the label method's QC; nothing can be learnt.",
        )
    for section in sections:
        logger.info("%s/%s: %s", section.step["cohort"], section.step["sample"], _counts(section.step))
    metadata = {
        "recipe": dict(spec["target"]),
        "tiles": {"name": spec["tiles"], "spec": one_tile_spec([s.tiles_spec for s in sections], spec["tiles"])},
        "labels": spec["labels"],
        "demo_fit": any(item.metadata.get("demo_fit") for item in by_cohort.values()),
        "truth": spec["truth"],
        "genes_matched_by": _matched_by(by_cohort),
        "units": _units(by_cohort, transform),
        "truth_units": _units(ground_truth, transform) if ground_truth else None,
        "steps": [section.step for section in sections],
        "constant_types": constant,
        "types_dropped": types_dropped,
        "identity": make_identity(
            "targets",
            {key: spec[key] for key in ("tiles", "labels", "truth", "target")},
            identities_of(
                {
                    "samples": samples,
                    "tiles": tiles,
                    "labels": labels,
                    "truth": truth,
                    **{f"embeddings.{encoder}": paths for encoder, paths in (embeddings or {}).items()},
                }
            ),
        ),
    }
    _write(sections, values, types, metadata, out)


def _units(labels: Mapping[str, Abundance], transform: str) -> str:
    """Return the units of the target: those of the labels, after the transform."""
    units = "+".join(sorted({str(item.metadata.get("units", "unstated")) for item in labels.values()}))
    return {"none": units, "log1p": f"log1p({units})", "proportion": "proportion"}[transform]


def _matched_by(labels: Mapping[str, Abundance]) -> str | None:
    """Return how genes of sections and reference met for the labels; None for labels that read no genes."""
    ways = sorted({way for item in labels.values() for way in item.metadata.get("genes_matched_by") or []})
    return "+".join(ways) or None


def _write(
    sections: Sequence[_Section], values: np.ndarray, types: list[str], metadata: Mapping[str, Any], out: Path
) -> None:
    """Write the h5ad."""
    import anndata

    obs = pd.concat([section.obs for section in sections])
    if "region" in obs:
        obs["region"] = obs["region"].fillna("").astype(str)
    data = anndata.AnnData(X=values, obs=obs, var=pd.DataFrame(index=pd.Index(types, dtype=str)))
    if any(section.truth is not None for section in sections):
        data.layers["truth"] = np.concatenate(
            [np.full_like(s.values, np.nan) if s.truth is None else s.truth for s in sections]
        )
    data.obsm["spatial"] = obs[["x", "y"]].to_numpy(np.float64)
    data.uns[KEY] = canonical_json(metadata)
    data.write_h5ad(out)
