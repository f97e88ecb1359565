"""A section's observations as every target has them: in tissue, on a kept tile, with place and patient."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import identities_of, read_metadata
from histoloom.embeddings.artefact import embedded_keys
from histoloom.errors import InputError
from histoloom.identity import canonical_json, make_identity
from histoloom.lattice import at_edge
from histoloom.obs_keys import obs_keys
from histoloom.samples.section import open_section
from histoloom.samples.tables import is_control
from histoloom.targets.base import Files

logger = logging.getLogger(__name__)

LOW_UMI = 100  # PROTOCOLS: observations with fewer counts are flagged, not dropped
_CARRIED = ("array_row", "array_col", "region")


@dataclass
class Observed:
    """A section before anything is predicted on it, with all observations (columns as in `Target`, index obs_id).

    `kept`: (n,) in tissue and on a kept tile; `joined`: kept and with a known answer; `step`: counts so far.
    """

    path: Path
    cohort: str
    sample: str
    obs: pd.DataFrame
    kept: npt.NDArray[np.bool_]
    joined: npt.NDArray[np.bool_]
    step: dict[str, Any]
    tiles_spec: Mapping[str, Any]

    def table(self) -> pd.DataFrame:
        """Return the joined observations, index ``cohort/sample/obs_id``."""
        return self.obs.set_axis(obs_keys(self.cohort, self.sample, self.obs.index)).loc[self.joined]


def observe(sample: Path, tile: Path, *, off_tissue: bool = False) -> Observed:
    """Read a section and its tiles; with `off_tissue` spots outside the tissue are kept too where they have a tile."""
    section, tiles_meta = open_section(sample), read_metadata(tile)
    meta, cohort, name = section.metadata, section.cohort, section.sample
    if (tiles_meta.get("cohort"), tiles_meta.get("sample")) != (cohort, name):
        problem = f"holds the tiles of another section than {sample}."
        raise InputError(tile, problem, "give samples and tiles in the same order.", code="tiles-section")
    obs = section.obs
    ids = pd.Index(obs.index)
    tiles = pd.read_parquet(tile, columns=["obs_id", "kept", "tissue_fraction"]).set_index("obs_id").reindex(ids)
    in_tissue = obs["in_tissue"].to_numpy(bool)
    kept = tiles["kept"].eq(True).to_numpy(bool)
    kept_in_tissue = kept & in_tissue
    kept = kept if off_tissue else kept_in_tissue
    keys = {"cohort": cohort, "sample": name, "patient": section.patient}
    frame = pd.DataFrame({**keys, "obs_id": ids}, index=ids)
    for column in _CARRIED:
        if column in obs:
            frame[column] = obs[column].to_numpy()
    frame["x"], frame["y"] = section.spatial.T
    pitch = meta.get("pitch_um")
    frame["pitch_um"] = float(pitch) if pitch is not None else np.nan
    mpp = meta.get("mpp")
    frame["um_per_px"] = float(mpp) if mpp is not None else np.nan
    frame["qc_flag"] = str(meta.get("qc_flag") or "")
    frame["low_umi"] = obs["n_counts"].to_numpy() < LOW_UMI
    frame["tissue_fraction"] = tiles["tissue_fraction"].to_numpy(np.float32)
    frame["edge"] = False
    if meta.get("unit") != "cell":
        frame.loc[kept, "edge"] = at_edge(
            *(frame.loc[kept, name].to_numpy(float) for name in ("array_row", "array_col"))
        )
    step = {
        "cohort": cohort, "sample": name, "observations": len(obs), "in_tissue": int(in_tissue.sum()),
        "kept": int(kept.sum()),
    }  # fmt: skip
    if off_tissue:
        step["kept_in_tissue"] = int(kept_in_tissue.sum())
    return Observed(sample, cohort, name, frame, kept, kept, step, tiles_meta.get("spec", {}))


def join_sections(
    files: Files, join: Callable[[Observed], npt.NDArray[np.bool_]], counted: str, *, off_tissue: bool = False
) -> list[Observed]:
    """Read sections with their tiles and keep the observations whose answer is known, as `join` says.

    Observations that lack an embedding of ``embeddings_<encoder>`` are left out, so that all models of the experiment
    are compared on the same ones. `counted` is the key of the last count of a step, for the message.
    """
    encoders = {role: paths for role, paths in files.items() if role.startswith("embeddings_")}
    embedded = embedded_keys(encoders) if encoders else None
    sections = []
    for sample, tile in zip(files["samples"], files["tiles"], strict=True):
        section = observe(Path(sample), Path(tile), off_tissue=off_tissue)
        section.joined = section.kept & join(section)
        if embedded is not None:
            keys = obs_keys(section.cohort, section.sample, section.obs.index)
            section.joined &= np.isin(keys, list(embedded))
            section.step["embedded"] = int(section.joined.sum())
        section.step["joined"] = int(section.joined.sum())
        shown = ", ".join(f"{value} {name}" for name, value in section.step.items() if name not in ("cohort", "sample"))
        if not section.joined.any():
            problem = f"no observation is in tissue, on a kept tile and {counted} ({shown})."
            remedy = "look at its tile picture and labels, or write a reason in the sheet's `exclude` column."
            raise InputError(f"{section.cohort}/{section.sample}", problem, remedy, code="target-empty")
        logger.info("%s/%s: %s", section.cohort, section.sample, shown)
        sections.append(section)
    return sections


def common_facts(sections: Sequence[Observed], spec: Mapping[str, Any], files: Files) -> dict[str, Any]:
    """Return what the metadata of every kind of target says; the identity is that of recipe and inputs."""
    specs = {canonical_json(section.tiles_spec): dict(section.tiles_spec) for section in sections}
    if len(specs) > 1:
        problem = "sections were cut with different specs under one name."
        raise InputError(f"tiles '{spec['tiles']}'", problem, "remove the tiles and run again.", code="tiles-specs")
    chosen = {key: spec.get(key) for key in ("tiles", "labels", "truth", "target")}
    return {
        "kind": spec["target"]["kind"],
        "recipe": dict(spec["target"]),
        "tiles": {"name": spec["tiles"], "spec": next(iter(specs.values()))},
        "labels": spec.get("labels"),
        "truth": spec.get("truth"),
        "steps": [section.step for section in sections],
        "identity": make_identity("targets", chosen, identities_of(files)),
    }


def common_genes(names: Sequence[pd.Index], samples: Sequence[Path], listed: Sequence[str] | None = None) -> list[str]:
    """Return the genes of a list, else those that every section has without control features, in the first's order."""
    if listed is not None:
        for own, sample in zip(names, samples, strict=True):
            if missing := [gene for gene in listed if gene not in own]:
                problem = f"lacks {len(missing)} of the {len(listed)} genes of the list: {', '.join(missing[:10])}."
                remedy = "give another list of genes, or exclude the section."
                raise InputError(sample, problem, remedy, code="panel-genes-missing")
        return list(listed)
    common = set.intersection(*(set(own) for own in names))
    shared = [gene for gene in names[0] if gene in common]
    genes = [gene for gene, control in zip(shared, is_control(shared), strict=True) if not control]
    if not genes:
        where, remedy = " + ".join(map(str, samples[:3])), "give all cohorts the same gene names."
        raise InputError(where, "the sections share no gene.", remedy, code="genes-none")
    logger.info("%d genes in every section, %d control features left out", len(genes), len(shared) - len(genes))
    return genes
