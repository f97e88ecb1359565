"""The encoder ablation: which models belong together, what a gain is, and that nothing of it is said of other models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from metrics_inputs import SPEC, make_obs, make_values, write_inputs

from histoloom.metrics import score_predictions
from histoloom.plan import Plan
from histoloom.report.ablation import ablation_table, report_ablation
from histoloom.report.results import read_results

NOISE = {"A_MLP": 2.0, "B_MLP": 1.0, "AB_MLP": 0.5, "C_MLP": 0.1}
CONFIGURATIONS = [
    {"model": "AB_MLP", "kind": "mlp", "encoders": ["a", "b"]},
    {"model": "A_MLP", "kind": "mlp", "encoders": ["a"]},
    {"model": "B_MLP", "kind": "mlp", "encoders": ["b"]},
    {"model": "C_MLP", "kind": "mlp", "encoders": ["c"]},
]


def scored(folder: Path, patients: str) -> list[Path]:
    obs = make_obs({(p, f"{p}{i}"): 30 for p in patients for i in (1, 2)})
    values = make_values(obs)
    files = []
    for i, (model, noise) in enumerate(NOISE.items()):
        rng = np.random.default_rng(i)
        seeds = {s: values + rng.normal(scale=noise, size=values.shape) for s in (0, 1)}
        (folder / model).mkdir(parents=True)
        paths = write_inputs(folder / model, obs, values, (seeds[0] + seeds[1]) / 2, seeds=seeds)
        out = folder / f"{model}.parquet"
        score_predictions(spec=SPEC, experiment="loo", model=model, out=out, **paths)
        files.append(out)
    return files


SPECIFIED: dict[str, Any] = {**SPEC, "models": list(NOISE), "ablation": CONFIGURATIONS, "title": "Which encoders"}


@pytest.mark.parametrize(("patients", "tested"), [("ABC", False), ("ABCDEF", True)])
def test_gain_is_against_the_best_of_the_parts(tmp_path: Path, patients: str, tested: bool) -> None:
    files = scored(tmp_path, patients)
    results = read_results("loo", SPECIFIED, files)
    table, of_patients = ablation_table(results)
    assert results.title == "Which encoders"
    assert table["encoders"].tolist() == ["a", "b", "c", "a+b"], "fewest first"
    by_name = table.set_index("encoders")
    pair = by_name.loc["a+b"]
    # C is better than everything, but no part of the pair; of its parts B is the better one.
    assert pair["best_part"] == "B_MLP"
    assert pair["gain"] == pytest.approx(pair["cc"] - by_name.loc["b", "cc"])
    assert pair["gain"] > 0
    assert by_name.loc[["a", "b", "c"], "gain"].isna().all()
    values = of_patients.pivot_table(index="patient", columns="model", values="cc")
    assert pair["cc"] == pytest.approx(values["AB_MLP"].mean())
    assert pair["better_for"] == (values["AB_MLP"] > values["B_MLP"]).sum() == len(patients)
    assert pair["n_patients"] == len(patients)
    assert np.isfinite(pair["p"]) == tested
    if tested:
        # One hypothesis: nothing to correct for; six of six on one side.
        assert pair["p"] == pytest.approx(2 / 2**6)
    assert (table["cc_seed_sd"] > 0).all()


def test_a_patient_without_a_value_is_counted_out(tmp_path: Path) -> None:
    files = scored(tmp_path, "ABC")
    rows = pd.read_parquet(files[2])
    gone = (rows["patient"] == "C") & (rows["metric"] == "cc") & (rows["aggregation"] == "patient")
    assert gone.any()
    from histoloom.artefacts import read_metadata, write_parquet

    write_parquet(rows.assign(value=rows["value"].mask(gone)), files[2], read_metadata(files[2]))
    table, _ = ablation_table(read_results("loo", SPECIFIED, files))
    pair = table.set_index("encoders").loc["a+b"]
    assert (pair["n_patients"], pair["better_for"]) == (2, 2)


def test_table_and_figure_are_written_the_same_twice(tmp_path: Path) -> None:
    files = scored(tmp_path, "ABC")
    found = []
    for name in ("one", "two"):
        out = {end: tmp_path / f"{name}.{end}" for end in ("csv", "md", "html")} | {"figure": tmp_path / f"{name}.png"}
        report_ablation(experiment="loo", spec=SPECIFIED, metrics=files, out=out)
        found.append([path.read_bytes() for path in out.values()])
    assert found[0] == found[1]
    text = (tmp_path / "one.md").read_text()
    assert "3 of 3 patients" in text
    assert "B_MLP" in text


def plan(repo: Path, **models: Any) -> Plan:
    raw = yaml.safe_load((repo / "config/decomposition.yaml").read_text())
    raw["models"] |= models
    raw["experiments"]["her2st_paper"]["models"] += list(models)
    return Plan.from_raw(raw, [repo / "config/decomposition.yaml"])


def test_the_papers_config_has_the_papers_ablation(repo: Path) -> None:
    found = plan(repo).models.ablation("her2st_paper")
    assert [(e["kind"], "+".join(e["encoders"])) for e in found] == [
        ("mlp", "conch"), ("mlp", "uni"), ("mlp", "conch+uni"), ("mlp", "uni2"), ("mlp", "conch+uni2"),
        ("mlp", "conch+uni+uni2"),
    ]  # fmt: skip
    assert "results/figures/her2st_paper/ablation.png" in plan(repo).report.targets()
    assert not [path for path in plan(repo).report.targets() if "her2st_open" in path and "ablation" in path]


def test_models_of_other_settings_are_a_group_of_their_own(repo: Path) -> None:
    narrow = {"kind": "mlp", "width": 64}
    added = {"R": {"kind": "ridge", "inputs": ["uni"]}, "N": {**narrow, "inputs": ["uni"]}}
    assert plan(repo, **added).models.ablation("her2st_paper") == plan(repo).models.ablation("her2st_paper")
    added["N2"] = {**narrow, "inputs": ["uni", "conch"]}
    kinds = {e["model"]: e["kind"] for e in plan(repo, **added).models.ablation("her2st_paper")}
    assert (kinds["UNI_MLP"], kinds["N"], kinds["N2"]) == ("mlp", "mlp 2", "mlp 2")
    assert "R" not in kinds
