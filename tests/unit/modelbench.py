"""An experiment laid out with target, folds and embeddings, to train and predict on."""

from __future__ import annotations

from types import SimpleNamespace

import anndata
import numpy as np
from modelworld import World, experiment

from histoloom.folds import make_folds
from histoloom.models import predict_model, train_model
from histoloom.targets import build_target

SMALL = {"hidden_layers": 1, "width": 8, "epochs": 3, "batch_size": 32}


def lay(world: World, folder, **spec):
    """Write target, folds and embeddings of an experiment."""
    folder.mkdir(exist_ok=True)
    entry = experiment(**spec)
    target, folds = folder / "target.h5ad", folder / "folds.parquet"
    build_target(
        spec=entry, samples=world.samples, tiles=world.tiles, labels=[world.write_labels()], truth=[], out=target
    )
    make_folds(spec=entry, target=target, seed=entry["seed"], out=folds)
    return SimpleNamespace(
        folder=folder, spec=entry, target=target, folds=folds, embeddings={"enc": world.write_embeddings()}
    )


def run(bench, model, name="m", predict=True, variant="default"):
    """Train and predict; return the predictions and the model's path."""
    path, out = bench.folder / f"{name}.pt", bench.folder / f"{name}.h5ad"
    inputs = {
        "spec": model,
        "experiment": bench.spec,
        "target": bench.target,
        "folds": bench.folds,
        "embeddings": bench.embeddings,
    }
    train_model(**inputs, out=path, efficiency=bench.folder / "e.json", threads=1, device="cpu")
    if not predict:
        return None, path
    predict_model(model=path, **inputs, variant=variant, out=out)
    return anndata.read_h5ad(out), path


def section_mean_cc(predictions):
    """Mean over sections and types of Pearson's r, by numpy."""
    values = []
    for _, rows in predictions.obs.groupby(["fold", "sample"], observed=True):
        part = predictions[rows.index]
        for i in range(part.n_vars):
            values.append(np.corrcoef(part.X[:, i], part.layers["labels"][:, i])[0, 1])
    return np.array(values)
