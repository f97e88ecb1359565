"""A new model and a new target are one module, one entry in kinds.py and one schema: nothing else has to know."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from modelbench import files_of, lay
from test_models_pixels import pixels  # noqa: F401 - a fixture

import histoloom.schemas
from histoloom import config, kinds
from histoloom.kind_entries import ModelKind, Need, TargetKind
from histoloom.metrics import score_predictions
from histoloom.metrics.rows import read_metrics
from histoloom.models import fit_models, predict_models
from histoloom.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
MODULE = '''
from dataclasses import dataclass
import numpy as np
from histoloom.models.base import Spec
from histoloom.targets.cell_class import CellClass

@dataclass(frozen=True)
class ToySpec(Spec):
    neighbours: int = 3

class Nearest:
    """Mean answer of the training tiles that are nearest in grey; `k` is chosen at prediction."""
    spec_type, uses_test_labels = ToySpec, False

    def __init__(self, spec):
        self.spec = spec

    def fit(self, data, job):
        y = data.train.dense
        y = np.eye(len(data.outputs))[y] if y.ndim == 1 else y
        return self.restore({"grey": self.grey(data.train.inputs), "y": y}, {"how": "fixed"})

    def restore(self, state, choices):
        new = Nearest(self.spec)
        new.arrays, new.choices = state, choices
        return new

    def state(self):
        return self.arrays

    @staticmethod
    def grey(inputs):
        return inputs.pixels().mean(axis=(1, 2, 3))

    def predict(self, inputs, variant, job):
        k = variant.get("k", self.spec.neighbours)
        order = np.abs(self.grey(inputs)[:, None] - self.arrays["grey"]).argsort(axis=1)[:, :k]
        return self.arrays["y"][order].mean(axis=1)

class Halves(CellClass):
    """Whether a spot is in the upper or the lower half of the array."""
    def build(self, *, spec, files, out):
        import pandas as pd
        from histoloom.artefacts import read_metadata
        from histoloom.samples.section import open_section
        tables = []
        for path in files["samples"]:
            obs = open_section(path).obs
            label = np.where(obs["array_row"] < 3, "upper", "lower")
            tables.append(pd.DataFrame({"cohort": obs["cohort"].astype(str), "sample": obs["sample"].astype(str),
                                        "obs_id": obs.index, "label": label}))
        pd.concat(tables).to_csv(out.with_suffix(".csv"), index=False)
        recipe = {"classes": [], "one_patient": "fail", "min_confidence": 0, **spec["target"]}
        super().build(spec={**spec, "target": recipe}, files={**files, "table": [out.with_suffix(".csv")]}, out=out)
'''
MODEL_SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["kind"],
    "properties": {
        "kind": {"const": "toy_nearest"}, "neighbours": {"type": "integer", "default": 3}, "variants": {"type": "object"},
    },
}  # fmt: skip
TARGET_SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["kind"],
    "properties": {"kind": {"const": "toy_halves"}},
}  # fmt: skip


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """The three files of each toy: module, entry, schema."""
    (tmp_path / "toy_kinds.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    schemas = tmp_path / "schemas"
    shutil.copytree(ROOT / "workflow/schemas", schemas)
    (schemas / "model.toy_nearest.schema.yaml").write_text(yaml.safe_dump(MODEL_SCHEMA))
    (schemas / "target.toy_halves.schema.yaml").write_text(yaml.safe_dump(TARGET_SCHEMA))
    for module in (config, histoloom.schemas):
        monkeypatch.setattr(module, "SCHEMAS", schemas)
    histoloom.schemas.load_schema.cache_clear()
    everything = frozenset({"abundance", "expression", "cell_class", "toy_halves"})
    toy = ModelKind("toy_kinds:Nearest", everything, frozenset({Need.PIXELS}), job="fold")
    monkeypatch.setitem(kinds.MODELS, "toy_nearest", toy)
    halves = TargetKind("toy_kinds:Halves", "histoloom.metrics.cell_class:score")
    monkeypatch.setitem(kinds.TARGETS, "toy_halves", halves)
    yield
    histoloom.schemas.load_schema.cache_clear()
    sys.modules.pop("toy_kinds", None)


def test_the_plan_knows_the_jobs_of_new_kinds(registered):
    raw = yaml.safe_load((ROOT / "tests/workflow/tiny.yaml").read_text())
    raw["models"]["toy"] = {"kind": "toy_nearest", "variants": {"k1": {"k": 1}, "k9": {"k": 9}}}
    raw["experiments"]["toys"] = {
        "task": "evaluate", "cohorts": ["tiny"], "tiles": "um112", "split": "leave_one_patient_out",
        "target": {"kind": "toy_halves"}, "models": ["toy"],
    }  # fmt: skip
    plan = Plan.from_raw(raw, [ROOT / "tests/workflow/tiny.yaml"])
    files = plan.models.files("toys", "toy")
    folds = plan.models.fold_names("toys")
    assert files == [f"results/models/toys/toy/{fold}.0.pt" for fold in folds if fold != "all"]
    assert plan.models.predictions("toys", "toy") == [f"results/predictions/toys/toy/k{k}.h5ad" for k in (1, 9)]
    reads = plan.models.inputs("toys", "toy")
    assert reads["pixels"][0].startswith("results/pixels/um112/tiny/")
    assert not reads["panel"]
    assert "results/tables/toys/summary.csv" in plan.report.targets()


@pytest.mark.parametrize("kind", ["toy_halves", "abundance"])
def test_a_toy_runs_to_a_row_of_the_table(registered, pixels, tmp_path, kind):  # noqa: F811
    folder = tmp_path / "e"
    folder.mkdir()
    bench = SimpleNamespace(**{**vars(pixels), "folder": folder})
    if kind == "toy_halves":
        world = pixels.world
        own = lay(world, folder, files={}, target={"kind": kind})
        bench = SimpleNamespace(**{**vars(own), "more": pixels.more, "embeddings": {}})
    spec = {"kind": "toy_nearest", "neighbours": 3, "variants": {"k1": {"k": 1}, "k9": {"k": 9}}, "name": "toy"}
    given = {"spec": spec, "experiment": bench.spec, "files": files_of(bench), "device": "cpu"}
    models = []
    for patient in "ABC":
        models.append(folder / f"patient-{patient}.0.pt")
        fit_models(**given, out=models[-1], efficiency=folder / "e.json", fold=f"patient-{patient}", seed=0)
    predictions = []
    for variant in ("k1", "k9"):
        predictions.append(folder / f"{variant}.h5ad")
        predict_models(**given, models=models, variant=variant, out=predictions[-1])
    score_predictions(
        spec={**bench.spec, "name": "e"}, experiment="e", model="toy", predictions=predictions, target=bench.target,
        folds=bench.folds, out=folder / "m.parquet",
    )  # fmt: skip
    rows = read_metrics([folder / "m.parquet"])
    assert set(rows["variant"]) == {"k1", "k9"}
    metric = "macro_f1" if kind == "toy_halves" else "cc"
    whole = rows[(rows["metric"] == metric) & (rows["aggregation"] == "cohort") & (rows["target"] == "")]
    assert len(whole)
    if kind == "abundance":  # the first two types follow the grey of a tile
        cc = rows[(rows["metric"] == "cc") & (rows["aggregation"] == "cohort") & (rows["target"] == "B")]
        assert (cc["value"] > 0.9).all()
