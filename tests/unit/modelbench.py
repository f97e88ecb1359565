"""An experiment laid out with target, folds and embeddings, to train and predict on."""

from __future__ import annotations

from types import SimpleNamespace

import anndata
import numpy as np
from modelworld import World, experiment

from histoloom.folds import make_folds
from histoloom.folds.panel import select_panel
from histoloom.models import fit_models, predict_models
from histoloom.targets import make_target

SMALL = {"hidden_layers": 1, "width": 8, "epochs": 3, "batch_size": 32, "min_steps": 0}


def lay(world: World, folder, files=None, **spec):
    """Write target, folds and embeddings of an experiment."""
    folder.mkdir(exist_ok=True)
    entry = experiment(**spec)
    target, folds = folder / "target.h5ad", folder / "folds.parquet"
    reads = {"samples": world.samples, "tiles": world.tiles, **(files or {"labels": [world.write_labels()]})}
    make_target(spec=entry, files=reads, out=target)
    make_folds(spec=entry, target=target, seed=entry["seed"], out=folds)
    panel = None
    if "panel" in entry["target"]:
        panel = folder / "panel.parquet"
        select_panel(spec=entry, target=target, folds=folds, out=panel)
    return SimpleNamespace(
        folder=folder, spec=entry, target=target, folds=folds, panel=panel, more={},
        embeddings={"enc": world.write_embeddings()},
    )  # fmt: skip


def files_of(bench):
    """What a model's jobs read, by role."""
    roles = {f"embeddings_{name}": paths for name, paths in bench.embeddings.items()}
    panel = [bench.panel] if bench.panel else []
    return {"target": [bench.target], "folds": [bench.folds], "panel": panel, **roles, **bench.more}


def run(bench, model, name="m", predict=True, variant="default"):
    """Train and predict; return the predictions and the model's path."""
    path, out = bench.folder / f"{name}.pt", bench.folder / f"{name}.h5ad"
    given = {"spec": model, "experiment": bench.spec, "files": files_of(bench), "device": "cpu"}
    fit_models(**given, out=path, efficiency=bench.folder / "e.json")
    if not predict:
        return None, path
    predict_models(models=[path], **given, variant=variant, out=out)
    return anndata.read_h5ad(out), path


def section_mean_cc(predictions):
    """Mean over sections and types of Pearson's r, by numpy."""
    values = []
    for _, rows in predictions.obs.groupby(["fold", "sample"], observed=True):
        part = predictions[rows.index]
        for i in range(part.n_vars):
            values.append(np.corrcoef(part.X[:, i], part.layers["labels"][:, i])[0, 1])
    return np.array(values)
