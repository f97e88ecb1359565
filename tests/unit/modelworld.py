"""A small world for tests of targets, folds and models: artefacts written as the stages to their left write them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd

from histoloom.artefacts import write_parquet
from histoloom.identity import sha256_text
from histoloom.schemas import check, load_schema

TILES = {"size_px": 224, "um_per_px": 0.5, "border": "drop"}
TYPES = ["B", "T", "epithelial", "stroma"]


def experiment(**given: Any) -> dict[str, Any]:
    """An experiment's entry with the schema's defaults."""
    entry = {
        "task": "evaluate",
        "tiles": "um112",
        "labels": "nn",
        "models": ["m"],
        "split": "leave_one_patient_out",
        **given,
    }
    if entry["split"] != "transfer":
        entry.setdefault("cohorts", ["demo"])
    entry["target"] = {"kind": "abundance", **entry.get("target", {})}
    check(entry["target"], load_schema(f"target.{entry['target']['kind']}"), "test")
    check(entry, load_schema("experiment.evaluate"), "test")
    return entry


def model_spec(kind: str, **given: Any) -> dict[str, Any]:
    """A model's entry with the schema's defaults, and its name."""
    entry = {
        "kind": kind,
        **({"inputs": ["enc"]} if kind in {"mlp", "ridge", "pca_ridge", "logistic_regression"} else {}),
        **given,
    }
    check(entry, load_schema(f"model.{kind}"), "test")
    return {**entry, "name": "m"}


@dataclass
class World:
    """Sections of several patients; features predict abundances through a known linear map."""

    folder: Path
    patients: dict[str, list[str]] = field(
        default_factory=lambda: {"A": ["A1", "A2"], "B": ["B1", "B2"], "C": ["C1", "C2"], "D": ["D1"]}
    )
    cohort: str = "demo"
    side: int = 8
    dim: int = 6
    noise: float = 0.05
    seed: int = 0
    types: list[str] = field(default_factory=lambda: list(TYPES))

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        shared = np.random.default_rng(99)
        self.map = shared.normal(size=(self.dim, len(self.types)))
        self.features: dict[str, np.ndarray] = {}
        self.labels: dict[str, np.ndarray] = {}
        self.samples: list[Path] = []
        self.tiles: list[Path] = []
        for patient, names in self.patients.items():
            for name in names:
                self._section(patient, name)

    def ids(self) -> list[str]:
        """Observation ids of a section."""
        return [f"{r}x{c}" for r in range(self.side) for c in range(self.side)]

    def _section(self, patient: str, name: str) -> None:
        n = self.side**2
        x = self.rng.normal(loc=self.rng.normal(size=self.dim), size=(n, self.dim)).astype(np.float32)
        self.features[name] = x
        self.labels[name] = np.log1p(
            np.exp(x @ self.map * 0.5 + self.rng.normal(scale=self.noise, size=(n, len(self.types))))
        )
        row, col = np.divmod(np.arange(n), self.side)
        obs = pd.DataFrame(
            {"array_row": row, "array_col": col, "in_tissue": True, "n_counts": 500, "n_genes": 10, "region": "fat"},
            index=self.ids(),
        )
        obs.loc[obs.index[0], "in_tissue"] = False
        obs.loc[obs.index[5], "n_counts"] = 50
        data = anndata.AnnData(X=np.zeros((n, 1), np.int32), obs=obs, var=pd.DataFrame(index=["g"]))
        data.obsm["spatial"] = np.stack([col, row], axis=1) * 400.0 + 100
        meta = {
            "cohort": self.cohort, "sample": name, "patient": patient, "qc_flag": "low resolution" * (patient == "D"),
            "mpp": 0.5, "pitch_um": 200.0, "pitch_px": 400.0, "identity": {"sha256": sha256_text(self.cohort + name)},
        }  # fmt: skip
        data.uns["histoloom"] = json.dumps(meta)
        folder = self.folder / self.cohort
        folder.mkdir(parents=True, exist_ok=True)
        self.samples.append(folder / f"{name}.h5ad")
        data.write_h5ad(self.samples[-1])
        tiles = pd.DataFrame({"obs_id": self.ids(), "tissue_fraction": 1.0, "kept": True, "reason": ""})
        tiles.loc[1, "kept"] = False
        self.tiles.append(folder / f"{name}.parquet")
        write_parquet(tiles, self.tiles[-1], {**meta, "spec": TILES, "identity": {"sha256": sha256_text("t" + name)}})

    def write_labels(self, name: str = "nn", missing: int = 2, layers: bool = True, **meta: Any) -> Path:
        """Gathered labels; the observation number ``missing`` of each section has none."""
        frames, values = [], []
        for section, label in self.labels.items():
            keep = np.arange(len(label)) != missing
            ids = np.array(self.ids())[keep]
            frames.append(pd.DataFrame({"sample": section, "obs_id": ids}, index=[f"{section}/{i}" for i in ids]))
            values.append(label[keep])
        data = anndata.AnnData(X=np.concatenate(values), obs=pd.concat(frames), var=pd.DataFrame(index=self.types))
        if layers:
            data.layers["q05"] = data.X * 0.5
        data.uns["histoloom"] = json.dumps(
            {"units": "cells", "identity": {"sha256": sha256_text(name + self.cohort)}, **meta}
        )
        path = self.folder / "labels" / name / f"{self.cohort}.h5ad"
        path.parent.mkdir(parents=True, exist_ok=True)
        data.write_h5ad(path)
        return path

    def write_embeddings(
        self,
        encoder: str = "enc",
        columns: slice = slice(None),
        tiles: dict[str, Any] = TILES,
        change: dict[str, np.ndarray] | None = None,
        **meta: Any,
    ) -> list[Path]:
        """One batch per two sections."""
        paths = []
        names = list(self.features)
        for number in range(0, len(names), 2):
            batch = names[number : number + 2]
            x = np.concatenate([(change or {}).get(s, self.features[s])[1:, columns] for s in batch])
            path = self.folder / "embeddings" / encoder / self.cohort / f"b{number}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            n = self.side**2 - 1
            with h5py.File(path, "w") as handle:
                handle["features"] = x.astype(np.float32)
                handle["coords"] = np.zeros((len(x), 2))
                handle.create_dataset("sample", data=np.repeat(batch, n).tolist(), dtype=h5py.string_dtype())
                handle.create_dataset("obs_id", data=self.ids()[1:] * len(batch), dtype=h5py.string_dtype())
                handle.attrs["histoloom"] = json.dumps(
                    {
                        "cohort": self.cohort,
                        "batch": f"b{number}",
                        "samples": batch,
                        "card": {"name": "toy"},
                        "revision": "1",
                        "weights_sha256": None,
                        "dim": x.shape[1],
                        "tiles_spec": tiles,
                        "encoder": encoder,
                        "identity": {"sha256": sha256_text(repr(x.tolist()))},
                        **meta,
                    }
                )
            paths.append(path)
        return paths
