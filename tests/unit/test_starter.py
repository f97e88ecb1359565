"""`make init`: every starter is a valid config, and what is wrong with a filled-in one is said in one list."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy.sparse import csr_matrix

from error_codes import has_code
from histoloom.config import load_config
from histoloom.errors import InputError, InputErrors
from histoloom.folds import make_folds
from histoloom.paths import FOLDS, TARGET, fill
from histoloom.plan import Plan
from histoloom.report.experiment import report_experiment
from histoloom.targets import make_target
from histoloom_operations.starter import ROWS, TASKS, start
from simulated_world import paths, ready
from whole_config import WholeConfig


def load(path: Path) -> Plan:
    return Plan.from_raw(yaml.safe_load(path.read_text()), [path])


@pytest.mark.parametrize(
    ("task", "source"), [(t, s) for t in TASKS for s in ROWS if (t == "slides") == (s == "slides")]
)
def test_a_starter_is_a_valid_config_that_lacks_only_files(task: str, source: str, tmp_path: Path) -> None:
    config, sheet = start("mine", source, task, tmp_path)
    assert len(config.read_text().splitlines()) < 60
    header, example = sheet.read_text().splitlines()
    assert header.count("\t") == example.count("\t") >= 5
    if task == "slides":
        pytest.skip("needs the folder of a trained model")
    with pytest.raises(InputError, check=has_code("user-file-missing")) as caught:
        load(config).check_files()
    # Every path of the example row is asked for, and so is the reference or the table.
    assert "S1" in str(caught.value)
    if task in {"cell_types", "label_table"}:
        assert isinstance(caught.value, InputErrors)


def test_the_source_follows_the_task_and_nothing_is_overwritten(tmp_path: Path) -> None:
    start("one", "", "slides", tmp_path)
    assert "source: slides" in (tmp_path / "one.yaml").read_text()
    assert "source: files" in start("two", "", "", tmp_path)[0].read_text()
    for name, source, task, code in (
        ("one", "", "slides", "start-exists"),
        ("a b", "", "", "start-name"),
        ("c", "hest", "", "start-choice"),
        ("c", "files", "slides", "start-choice"),
        ("c", "", "maps", "start-choice"),
    ):
        with pytest.raises(InputError, check=has_code(code)):
            start(name, source, task, tmp_path)


def test_all_that_is_wrong_with_a_config_is_in_one_list(tmp_path: Path) -> None:
    config, sheet = start("mine", "files", "cell_types", tmp_path)
    raw = yaml.safe_load(config.read_text())
    raw["experiments"]["mine"] |= {"spilt": 1, "labels": "c2l", "models": ["ridge", "mlp"]}
    raw["labels"]["quick"]["reference"] = "sim"
    raw["encoders"]["texture"]["tiles"] = "um11"
    raw["models"]["coordinates"]["kind"] = "coords"
    sheet.write_text(
        sheet.read_text()
        + "S1\tP1\tc\tp\ti\t\t\t\t\t\n"
        + "S3  P2\t\tc\tp\ti\t\t\t\t\t\n"
        + "S4\t\tc\tp\ti\t\t\t\t\t\n"
    )
    with pytest.raises(InputErrors) as caught:
        load_config(raw, [config])
    codes = [error.code for error in caught.value.errors]
    text = str(caught.value)
    for part in ("'spilt'", "'c2l'", "'mlp'", "'sim'", "'um11'", "'coords'", "row 3", "row 4", "row 5"):
        assert part in text, part
    assert {"sheet-twice", "sheet-spaces", "sheet-patient", "name-unknown"} <= set(codes)
    assert text.count("\n") == len(codes)


def test_a_key_that_is_misspelt_is_all_that_is_wrong_with_it(tmp_path: Path) -> None:
    config, _ = start("mine", "files", "cell_types", tmp_path)
    raw = yaml.safe_load(config.read_text())
    raw["experiments"]["mine"]["spilt"] = raw["experiments"]["mine"].pop("split")
    with pytest.raises(InputErrors) as caught:
        load_config(raw, [config])
    # The key that is not known, and the one that is missing.
    assert len(caught.value.errors) == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("sample patient image\nS1 P1 a.tif\n", "sheet-separator"),
        ("sample\tpatient\tcounts\timage\tposition\nS1\tP1\tc\ti\tp\n", "sheet-column"),
        ("sample\tpatient\tcounts\nS1\tP1\tc\n", "sheet-column"),
        ("sample\tpatient\tcounts\timage\n", "sheet-empty"),
    ],
)
def test_a_sheet_that_is_no_sheet_is_said_once(text: str, code: str, tmp_path: Path) -> None:
    config, sheet = start("mine", "files", "genes", tmp_path)
    sheet.write_text(text)
    with pytest.raises(InputError, check=has_code(code)):
        load(config)


def write_cells(folder: Path, sample: str, seed: int) -> None:
    """A section as people have it: cells x genes with their centres in an h5ad, an H&E, a class per cell in a table."""
    rng = np.random.default_rng(seed)
    dark = rng.random(90) < 0.4
    centres = np.stack(np.meshgrid(np.arange(9), np.arange(10)), axis=-1).reshape(-1, 2) * 64 + rng.uniform(
        50, 60, (90, 2)
    )
    pixels = np.full((760, 700, 3), 240, np.uint8)
    for (x, y), is_dark in zip(centres.astype(int), dark, strict=True):
        around = pixels[y - 30 : y + 31, x - 30 : x + 31]
        around[:] = np.clip(rng.normal((110, 60, 140) if is_dark else (215, 150, 190), 12, around.shape), 0, 255)
    names = [f"cell{i:03d}" for i in rng.permutation(90)]
    data = anndata.AnnData(csr_matrix(rng.poisson(2.0, (90, 20)).astype(np.float32)), obs=pd.DataFrame(index=names))
    data.var_names = [f"G{i}" for i in range(20)]
    data.obsm["spatial"] = centres
    place = folder / sample
    place.mkdir()
    data.write_h5ad(place / "cells.h5ad")
    Image.fromarray(pixels).save(place / "HE.png")
    classes = pd.DataFrame({"obs_id": names, "label": np.where(dark, "tumour", "stroma")})
    (folder / "classes").mkdir(exist_ok=True)
    classes.sample(frac=1, random_state=seed).to_csv(folder / "classes" / f"{sample}.csv", index=False)


def test_cells_of_an_h5ad_become_a_table_after_the_sheet_alone_is_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, sheet = start("mine", "", "cells", tmp_path)
    header, example = sheet.read_text().splitlines()
    rows = [example.replace("S1", f"S{i}").replace("P1", f"P{i}").replace(".tif", ".png") for i in (1, 2, 3)]
    sheet.write_text("\n".join([header, *rows]) + "\n")
    for i in (1, 2, 3):
        write_cells(tmp_path, f"S{i}", i)
    monkeypatch.chdir(tmp_path)
    world = WholeConfig(yaml.safe_load(config.read_text()), config)
    world.plan.check_files()
    world.sections("mine")
    world.embeddings("texture", "mine")
    target, folds = ready(fill(TARGET, experiment="mine")), ready(fill(FOLDS, experiment="mine"))
    entry, files = world.plan.config.get("experiments", "mine"), world.plan.models.target_files("mine")
    make_target(
        spec=world.plan.experiments.spec("mine", "target"), files={r: paths(f) for r, f in files.items()}, out=target
    )
    make_folds(spec=world.plan.experiments.spec("mine", "folds"), target=target, seed=entry["seed"], out=folds)
    for model in entry["models"]:
        world.model("mine", model, target, folds)
    metrics = paths(world.plan.report.results("mine")["metrics"])
    out = {f"summary_{ending}": tmp_path / f"summary.{ending}" for ending in ("csv", "md", "html")}
    out |= {f"baselines_{ending}": tmp_path / f"baselines.{ending}" for ending in ("csv", "md", "html")}
    out |= {name: tmp_path / f"{name}.png" for name in ("bars", "baselines", "between", "curves")}
    report_experiment(experiment="mine", spec=world.plan.report.spec("mine"), metrics=metrics, efficiency=[], out=out)
    table = pd.read_csv(tmp_path / "summary.csv").set_index("model")
    assert table.loc["logistic", "n_patients"] == 3
    # Colour tells the classes apart, the most frequent class and the place do not.
    assert table.loc["logistic", "macro_f1"] > 0.95
    assert table.loc[["majority", "coordinates"], "macro_f1"].max() < 0.7
