"""The baseline comparison: who stands on which level, in which order, what is drawn of it, and what a level gains."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from metrics_inputs import SPEC, make_obs, make_values, write_inputs

from histoloom import kinds
from histoloom.config import load_config
from histoloom.kinds import LEVELS
from histoloom.metrics import score_predictions
from histoloom.plan import Plan
from histoloom.plan.baselines import is_baseline, level_of
from histoloom.plan.report import CHAPTERS
from histoloom.report.baselines import baseline_table, draw_baselines, write_baselines
from histoloom.report.results import read_results

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("kind", "inputs", "level"),
    [
        ("train_mean", [], "training mean"),
        ("section_mean", [], "section mean"),
        ("coordinates", [], "coordinates only"),
        ("ridge", [("nuclear_density", "none")], "nuclear density"),
        ("mlp", [("colour_only", "none")], "colour only"),
        ("ridge", [("colour_only", "none"), ("nuclear_density", "none")], "colour only"),
        ("ridge", [("timm", "random")], "random-weight encoder"),
        ("mlp", [("timm", "random")], "random-weight encoder"),
        ("ridge", [("stain_texture", "none")], "stain and texture"),
        ("ridge", [("timm", "hub")], "encoder, linear"),
        ("ridge", [("timm", "random"), ("timm", "/w/uni.safetensors")], "encoder, linear"),
        ("mlp", [("stain_texture", "none")], "model"),
        ("mlp", [("conch", "hub"), ("timm", "hub")], "model"),
    ],
)
def test_a_model_stands_on_the_level_of_what_it_may_know(kind: str, inputs: list, level: str) -> None:
    assert level_of(kind, inputs) == level


def test_the_floor_ends_below_texture() -> None:
    assert [r for r in LEVELS if not is_baseline(r)] == ["stain and texture", "encoder, linear", "model"]


def plan_of(*models: str) -> Plan:
    """Return the demo's plan with one model of every level."""
    raw = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    cards = {
        "count": "nuclear_density",
        "colour": "colour_only",
        "noise": "random_vit_tiny",
        "texture": "stain_texture",
    }
    raw["encoders"] = {name: {"card": card, "tiles": "um112"} for name, card in cards.items()}
    raw["encoders"]["net"] = {"card": "uni", "tiles": "um112"}
    raw["models"] |= {f"on_{name}": {"kind": "ridge", "inputs": [name]} for name in raw["encoders"]}
    raw["models"]["section_mean"] = {"kind": "section_mean"}
    raw["experiments"]["demo"]["models"] = list(models)
    raw["checks"] = {"regions": {"kind": "predicted_nuclei", "experiment": "demo"}}
    return Plan(load_config(raw, [ROOT / "config" / "config.yaml"]))


def test_an_experiments_baselines_is_in_order_whatever_the_config_says() -> None:
    wanted = [
        "train_mean",
        "section_mean",
        "coordinates",
        "on_count",
        "on_colour",
        "on_noise",
        "on_texture",
        "on_net",
        "mlp",
    ]
    plan = plan_of(*sorted(wanted, reverse=True))
    baselines = plan.report.spec("demo")["baselines"]
    assert [item["model"] for item in baselines] == wanted
    assert [item["level"] for item in baselines] == list(LEVELS)
    drawn = {t.split("/")[3] for t in plan.report.targets() if "/demo/" in t and t.endswith("/maps.jpg")}
    assert drawn == {"on_texture", "on_net", "mlp"}
    checked = {p.split("/")[3] for p in plan.checks.files("regions")["labels"]}
    assert checked == {"on_count", "on_colour", "on_noise", "on_texture", "on_net", "mlp"}
    assert "results/tables/demo/baselines.csv" in plan.report.targets()
    # The baseline comparison is presentation: it must not make a model train again.
    assert "baselines" not in plan.experiments.spec("demo", "training")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Three models of growing noise over six patients, and one that is constant."""
    folder = tmp_path_factory.mktemp("baselines")
    obs = make_obs({(p, f"{p}1"): 36 for p in "ABCDEF"}, qc_flags={"F1": "low resolution"})
    values = make_values(obs)
    rng, files = np.random.default_rng(0), {}
    for model, noise in (("coords", 6.0), ("density", 3.0), ("texture", 0.5), ("mean", None)):
        made = np.ones_like(values) if noise is None else values + noise * rng.normal(size=values.shape)
        made_files = write_inputs(folder / model, obs, values, made)
        score_predictions(spec=SPEC, experiment="loo", model=model, out=folder / f"{model}.parquet", **made_files)
        files[model] = folder / f"{model}.parquet"
    order = [("mean", LEVELS[0]), ("coords", LEVELS[2]), ("density", LEVELS[3]), ("texture", LEVELS[6])]
    spec = {**SPEC, "models": list(files), "baselines": [{"model": m, "level": r} for m, r in order]}
    return spec, [files[m] for m in ("texture", "mean", "density", "coords")]


def test_the_table_climbs_and_says_what_each_level_gains(scored) -> None:
    spec, metrics = scored
    results = read_results("loo", spec, metrics)
    table = baseline_table(results)
    order = ["mean", "coords", "density", "texture"]
    assert [step["model"] for step in results.levels()] == table["model"].tolist() == order
    row = table.set_index("model")
    assert row.loc["mean", "cc"] == 0
    assert row.loc["coords", "gain"] == row.loc["coords", "cc"]  # a constant below it scores 0
    assert row.loc["density", "gain"] == pytest.approx(row.loc["density", "cc"] - row.loc["coords", "cc"])
    assert row.loc["texture", "gain"] == pytest.approx(row.loc["texture", "cc"] - row.loc["density", "cc"])
    assert row.loc["texture", "cc_low"] < row.loc["texture", "cc"] < row.loc["texture", "cc_high"]
    patients = [f"cc_{p}" for p in "ABCDE"]
    assert row.loc["texture", patients].mean() == pytest.approx(row.loc["texture", "cc"])
    assert "cc_F" not in table  # a QC flag is shown elsewhere


def test_figure_and_table_are_the_same_bytes_twice(scored, tmp_path: Path) -> None:
    spec, metrics = scored
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        results = read_results("loo", spec, metrics)
        draw_baselines(results, folder / "l.png")
        write_baselines(results, {e: folder / f"l.{e}" for e in ("csv", "md", "html")})
    for name in ("l.png", "l.csv", "l.md", "l.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    text = (tmp_path / "a" / "l.md").read_text()
    assert re.search(r"\| nuclear density +\| density +\|", text)
    assert len(pd.read_csv(tmp_path / "a" / "l.csv")) == 4


def test_the_reports_chapters_are_numbered_without_gaps_and_introduced() -> None:
    """Snakemake sorts chapters by name: those of a run are numbered in order, and the first page says what each is."""
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    named = re.findall(r'category=chapter\("([^"]*)"\)', rules)
    shown = re.findall(r'shown(?:_table)?\(\s*(?:paths\.\w+|"\w+"),\s*"([^"]*)"', rules)
    used = {*named, *shown, *(kind.chapter for kind in kinds.CHECKS.values())}
    assert used == set(CHAPTERS)
    assert 'category="' not in rules
    front = (ROOT / "workflow" / "report" / "workflow.rst").read_text()
    assert all(f'"{title}":' in front for title in CHAPTERS)
    plan = plan_of("train_mean", "mlp")
    numbered = [plan.report.chapter(title) for title in CHAPTERS]
    present = [title for title in numbered if title[0].isdigit()]
    assert [int(title.partition(".")[0]) for title in present] == list(range(1, len(present) + 1))
    assert "What depends on the labels" in numbered  # no check of this run is about that
