"""Write a bundle: a trained model with all that is needed to use it and to know how good it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histoloom.artefacts import identities_of
from histoloom.bundles import FACTS, FORMAT, TRAINING, WEIGHTS
from histoloom.identity import make_identity, sha256_file
from histoloom.metrics.rows import read_metrics
from histoloom.metrics.uncertainty import bootstrap_interval
from histoloom.models.artefact import load_models, name_of
from histoloom.models.training_range import read_training_range

_README = """# {model}: {kind} of {target}

Trained by histoloom on {patients} patients, {sections} sections, {observations} observations ({um_per_px} um/px at
level 0). Units: {units}. Labels: {labels}. {n_outputs} outputs: {outputs}.

Held out, one patient at a time or as the protocol in bundle.json says: {score}.

Tiles: {tiles}. Encoders: {encoders}.

Licences of what it was made with: {licences}. Predictions are a research result, not a diagnosis.

## Use

```yaml
cohorts:
  slides: {{source: slides, sheet: slides.tsv, grid_um: 112}}
experiments:
  new: {{task: apply, bundle: path/to/this/folder, cohorts: [slides]}}
```
"""


def write_bundle(*, models: Sequence[Path], training: Path, metrics: Path, spec: Mapping[str, Any], out: Path) -> None:
    """Write a bundle from a model's files of all folds and seeds, what it was trained on and its metrics.

    `spec` are the entries that another config needs (model, tiles, encoders, cards) and licences, as the plan gives
    them.
    """
    from safetensors.numpy import save

    out.mkdir(parents=True)
    saved = [load_models(path) for path in models]
    tensors = {
        f"{name_of(fold, seed)}/{name}": np.ascontiguousarray(array)
        for file in saved
        for fold, seed in file.names()
        for name, array in file.fitted(fold, seed).state().items()
    }
    (out / WEIGHTS).write_bytes(save(tensors))  # save_file would make it readable for its owner alone
    shutil.copyfile(training, out / TRAINING)
    metadata = {
        **saved[-1].metadata,
        "models": [key for file in saved for key in file.names()],
        "choices": {name: choice for file in saved for name, choice in file.metadata["choices"].items()},
    }
    if isinstance(metadata["outputs"], Mapping):
        metadata["outputs"] = {k: v for file in saved for k, v in file.metadata["outputs"].items()}
    facts = {
        "format": FORMAT,
        **spec,
        "metadata": metadata,
        "training": dict(read_training_range(training).facts),
        "scores": held_out_scores(metrics),
        "sha256": {name: sha256_file(out / name) for name in (WEIGHTS, TRAINING)},
        "identity": make_identity(
            "bundles", dict(spec), identities_of({"models": models, "training": training, "metrics": metrics})
        ),
    }
    (out / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    (out / "README.md").write_text(_describe(facts))


def held_out_scores(metrics: Path) -> list[dict[str, Any]]:
    """Return the mean over held-out patients of each metric and cohort, and of each output's; intervals from five."""
    rows = read_metrics([metrics])
    rows = rows[(rows["train_seed"] == -1) & (rows["qc_flag"] == "") & (rows["target2"] == "")]
    keys = ["variant", "against", "cohort", "metric"]
    scores = []
    for key, own in rows[rows["aggregation"] == "cohort"].groupby(keys, sort=True):
        patients = rows[(rows["aggregation"] == "patient") & (rows["target"] == "")]
        patients = patients[(patients[keys] == list(key)).all(axis=1)]
        overall = own[own["target"] == ""]
        if overall.empty or not np.isfinite(overall["value"].iloc[0]):
            continue
        interval = bootstrap_interval(patients["value"].to_numpy())
        by_output = own[(own["target"] != "") & own["value"].notna()]
        scores.append(
            {
                **dict(zip(keys, key, strict=True)),
                "value": float(overall["value"].iloc[0]),
                "interval": list(map(float, interval)) if interval else None,
                "patients": int(patients["value"].notna().sum()),
                "by_output": dict(zip(by_output["target"], map(float, by_output["value"]), strict=True)),
            }
        )
    return scores


def _describe(facts: Mapping[str, Any]) -> str:
    metadata, training = facts["metadata"], facts["training"]
    outputs = metadata["outputs"] if isinstance(metadata["outputs"], list) else metadata["outputs"]["all"]
    headline = "macro_f1" if metadata["target_kind"] == "cell_class" else "cc"
    scores = [
        f"{headline} {s['value']:.3f}"
        + (f" ({s['interval'][0]:.3f} to {s['interval'][1]:.3f})" if s["interval"] else "")
        + f" against {s['against']} on {s['cohort']}, {s['patients']} patients"
        for s in facts["scores"]
        if s["metric"] == headline
    ]
    um = training["um_per_px"]
    return _README.format(
        model=facts["model"]["name"],
        kind=facts["model"]["kind"],
        target=metadata["target_kind"],
        patients=len(training["patients"]),
        sections=training["sections"],
        observations=training["observations"],
        um_per_px=f"{um[0]:.3g} to {um[1]:.3g}" if um else "unknown",
        units=metadata["units"],
        labels=metadata["protocol"].get("labels") or "none",
        n_outputs=len(outputs),
        outputs=", ".join(outputs[:30]) + (", ..." if len(outputs) > 30 else ""),
        score="; ".join(scores) or "not measured",
        tiles=facts["tiles"]["entry"],
        encoders=", ".join(f"{n} ({s['card']}, {s['revision']})" for n, s in metadata["encoders"].items()) or "none",
        licences="; ".join(f"{n}: {v['licence']}" for n, v in facts["licences"].items()) or "none needed",
    )
