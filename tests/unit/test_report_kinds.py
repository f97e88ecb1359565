"""The report of targets other than abundance, of variants, and the front page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from metrics_inputs import SPEC, make_obs, make_values, write_inputs

from histoloom.artefacts import write_parquet
from histoloom.identity import canonical_json
from histoloom.metrics import cell_class
from histoloom.metrics.rows import read_metrics
from histoloom.metrics.score import score_predictions
from histoloom.metrics.scored import Scored
from histoloom.plan import Plan
from histoloom.report.coloc import draw_coloc
from histoloom.report.experiment import report_experiment
from histoloom.report.front import doubts, verdict, write_front
from histoloom.report.results import WORDS, read_results
from histoloom.report.summary import summarise

CLASSES = ["B", "T", "tumour"]
TABLES = [f"{name}_{ending}" for name in ("summary", "baselines") for ending in ("csv", "md", "html")]


def outputs(folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    tables = {role: folder / role.replace("_", ".") for role in TABLES}
    return tables | {name: folder / f"{name}.png" for name in ("bars", "baselines", "between", "curves")}


def class_metrics(path: Path, model: str, noise: float) -> Path:
    """Score probabilities of a class that is drawn at random; more noise, worse probabilities."""
    obs = make_obs({(p, f"{p}1"): 40 for p in "ABC"}).reset_index(drop=True).assign(fold="f")
    rng = np.random.default_rng(0)
    label = rng.integers(0, len(CLASSES), len(obs))
    onehot = np.eye(len(CLASSES))[label]
    made = onehot + noise * rng.random(onehot.shape)
    made /= made.sum(axis=1, keepdims=True)
    means = pd.DataFrame([onehot.mean(axis=0)], index=["f"], columns=CLASSES)
    scored = Scored(obs, CLASSES, made, {}, {"labels": onehot}, {}, means=means)
    protocol = canonical_json({"kind": model, "split": "blocks", "labels": "singler"})
    rows = cell_class.score(scored).assign(experiment="cells", model=model, variant="default", protocol=protocol)
    write_parquet(rows, path, {"model": model})
    return path


def test_classes_are_tabled_and_drawn_by_their_own_scores(tmp_path: Path) -> None:
    files = [class_metrics(tmp_path / f"{m}.parquet", m, noise) for m, noise in (("good", 0.5), ("bad", 4.0))]
    spec: dict[str, Any] = {
        "name": "cells",
        "title": "Cells",
        "target": {"kind": "cell_class"},
        "models": ["bad", "good"],
    }
    spec["baselines"] = [{"model": "bad", "level": "majority", "baseline": True}]
    out = outputs(tmp_path / "cells")
    report_experiment(experiment="cells", spec=spec, metrics=files, efficiency=[], out=out)
    table = pd.read_csv(out["summary_csv"]).set_index("model")
    truth = read_metrics(files[:1])
    row = truth.query("metric == 'macro_f1' and aggregation == 'cohort' and target == ''")
    assert table.loc["good", "macro_f1"] == pytest.approx(row["value"].iloc[0], abs=1e-6)
    assert table.loc["good", "macro_f1"] > table.loc["bad", "macro_f1"]
    assert "cc" not in table
    assert table["n_types"].tolist() == [3, 3]
    text = out["summary_md"].read_text()
    assert "macro F1" in text
    assert "F1 by class" in text
    assert "SD ratio" not in text
    draw_coloc(experiment="cells", model="good", metrics=files[0], out=tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 5000
    write_front(entries=[spec], files={"tables": [out["summary_csv"], out["baselines_csv"]], "figures": [out["bars"]]},
                out=tmp_path / "front.html")  # fmt: skip
    front = (tmp_path / "front.html").read_text()
    assert "good is better than the best baseline (bad" in front
    assert "data:image/png;base64," in front


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One model in two variants, the second with a fiftieth of the labels' spread, and a baseline."""
    folder = tmp_path_factory.mktemp("variants")
    obs = make_obs({(p, f"{p}1"): 30 for p in "ABCDEF"})
    values, rng = make_values(obs), np.random.default_rng(0)
    noisy = values + 0.5 * rng.normal(size=values.shape)
    parts = []
    for variant, made in (("k50", noisy), ("k500", values.mean() + 0.02 * (noisy - values.mean()))):
        files = write_inputs(folder / variant, obs, values, made)
        score_predictions(spec=SPEC, experiment="loo", model="bleep", out=folder / "v.parquet", **files)
        parts.append(pd.read_parquet(folder / "v.parquet").assign(variant=variant))
    write_parquet(pd.concat(parts, ignore_index=True), folder / "bleep.parquet", {"model": "bleep"})
    files = write_inputs(folder / "b", obs, values, values + 8 * rng.normal(size=values.shape))
    score_predictions(spec=SPEC, experiment="loo", model="colour", out=folder / "colour.parquet", **files)
    return folder / "bleep.parquet", folder / "colour.parquet"


def test_variants_are_models_of_their_own_and_flat_ones_are_marked(variants: tuple[Path, Path], tmp_path: Path) -> None:
    levels = [{"model": "colour", "level": "colour only", "baseline": True},
              {"model": "bleep", "level": "model", "baseline": False}]  # fmt: skip
    spec = {**SPEC, "name": "loo", "models": ["bleep", "colour"], "baselines": levels}
    results = read_results("loo", spec, variants)
    assert results.models == ["bleep (k50)", "bleep (k500)", "colour"]
    assert [step["model"] for step in results.levels()] == ["colour", "bleep (k50)", "bleep (k500)"]
    table = summarise(results).set_index("name")
    assert table.loc["bleep (k500)", ["model", "variant"]].tolist() == ["bleep", "k500"]
    assert table.loc["bleep (k500)", "sd_ratio"] < 0.1 < table.loc["bleep (k50)", "sd_ratio"]
    assert table.loc["bleep (k50)", "cc"] == pytest.approx(table.loc["bleep (k500)", "cc"], abs=1e-3)
    out = outputs(tmp_path / "loo")
    report_experiment(experiment="loo", spec=spec, metrics=variants, efficiency=[], out=out)
    text = out["summary_md"].read_text()
    flat = next(line for line in text.splitlines() if "bleep (k500)" in line)
    assert "⚠" in flat
    assert "⚠" not in next(line for line in text.splitlines() if "bleep (k50)" in line)
    assert "⚠" in out["baselines_md"].read_text()


def comparison(model: list[float], baseline: list[float]) -> pd.DataFrame:
    rows = {"m": ("model", model), "b": ("colour only", baseline), "s": ("section mean", [0.99] * len(model))}
    return pd.DataFrame(
        [{"model": name, "level": level, "cc": np.mean(v), "cc_low": 0.0, "cc_high": 1.0, "cc_pooled": 0.9,
          **{f"cc_{p}": x for p, x in zip("ABCD", v, strict=False)}} for name, (level, v) in rows.items()]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "words"),
    [([0.5, 0.6, 0.7, 0.8], "m is better"), ([0.5, 0.6, 0.7, 0.1], "m is not always better"),
     ([0.4, 0.1, 0.1, 0.1], "m is not better")],
)  # fmt: skip
def test_the_verdict_counts_patients(model: list[float], words: str) -> None:
    levels = {"colour only": True, "model": False, "section mean": True}
    best, sentence = verdict(comparison(model, [0.3, 0.3, 0.3, 0.3]), levels, WORDS["abundance"])
    assert best == "m"
    assert sentence.startswith(words)
    assert f"in {sum(x > 0.3 for x in model)} of 4 held-out patients" in sentence
    assert "(b, CC 0.300)" in sentence  # the section mean sees test labels and is no rival


def test_doubts_are_named() -> None:
    protocol = {"demo_fit": True, "joint_fit": True, "content_guard": "off"}
    row = {"protocol": json.dumps(protocol), "n_patients": 3, "sd_ratio": 0.02, "l1_skill": -0.2, "n_nan": 4}
    notes = " ".join(doubts(row, pd.DataFrame({"qc_flag": ["", "low resolution"]}), WORDS["abundance"]))
    for word in (
        "too short",
        "Only 3 patients",
        "nearly flat",
        "2%",
        "skill below 0",
        "4 pairs",
        "low resolution",
        "together",
        "two names",
    ):
        assert word in notes
    good = {"protocol": "{}", "n_patients": 9, "sd_ratio": 0.8, "l1_skill": 0.2, "n_nan": 0}
    assert doubts(good, pd.DataFrame({"qc_flag": [""]}), WORDS["abundance"]) == []


def test_configs_in_one_folder_have_front_pages_of_their_own(tmp_path: Path) -> None:
    names = set()
    for files in (["mine.yaml"], ["other one.yaml"], ["mine.yaml", "more.yaml"], []):
        plan = Plan.from_raw({"experiments": {}}, [tmp_path / name for name in files])
        own = [path for path in plan.report.targets() if "exclusions" in path]
        assert len(own) == 1
        assert "{" not in own[0]
        assert " " not in own[0]
        names.add(own[0])
    assert len(names) == 4
