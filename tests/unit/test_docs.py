"""The manual's worked example is code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import yaml

from histoloom.inputs import Inputs
from histoloom.kind_entries import ModelKind, Need
from histoloom.kinds import MODELS
from histoloom.models.base import FoldData, JobContext, Part
from histoloom.targets import abundance

ROOT = Path(__file__).resolve().parents[2]


def block(language: str, word: str) -> str:
    """The first block of code in docs/architecture.md that holds a word."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    return next(code for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if word in code)


def test_the_model_of_the_manual_fits_restores_and_predicts() -> None:
    import sys
    import types

    module = types.ModuleType("nearest")
    sys.modules["nearest"] = module  # dataclasses look it up
    exec(compile(block("python", "class Nearest(Model):"), "architecture.md", "exec"), module.__dict__)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(12, 4)).astype(np.float32), rng.random((12, 2)).astype(np.float32)
    obs = pd.DataFrame({"cohort": "c", "sample": "s", "obs_id": [f"o{i}" for i in range(12)]})
    inputs = Inputs(obs, {"features": lambda rows: x[rows]}, np.arange(12))
    zeros = np.zeros(12, dtype=np.intp)
    target = abundance.Abundance()
    data = FoldData("f", Part(inputs, y, zeros, zeros), None, target, ("a", "b"))
    entry = {"kind": "nearest", "inputs": ["uni"], "neighbours": 1}
    model = module.Nearest(module.NearestSpec.from_json(entry))
    fitted = model.fit(data, JobContext())
    assert np.array_equal(fitted.predict(inputs, {}, JobContext()), y)
    again = model.restore(fitted.state(), fitted.choices)
    assert np.array_equal(again.predict(inputs, {}, JobContext()), y)
    everyone = fitted.predict(inputs, {"neighbours": 12}, JobContext())
    assert np.allclose(everyone, y.mean(axis=0), rtol=1e-5)


def test_the_entry_and_the_schema_of_the_manual_are_valid() -> None:
    from histoloom.kind_entries import Memory

    entry = eval("{" + block("python", "ModelKind(") + "}", {"ModelKind": ModelKind, "Need": Need, "Memory": Memory})
    assert isinstance(entry["nearest"], ModelKind)
    assert "nearest" not in MODELS
    schema = yaml.safe_load(block("yaml", "models.<name> with kind: nearest"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"kind": "nearest", "inputs": ["uni"]}, schema)


def test_links_of_the_manual_lead_to_files() -> None:
    folders = ("docs", "config", "profiles")
    pages = [*ROOT.glob("*.md"), *(page for folder in folders for page in (ROOT / folder).rglob("*.md"))]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)\s#]+)", page.read_text())
        if not re.match("https?:|mailto:", link) and not (page.parent / link).exists()
    ]
    assert broken == []
