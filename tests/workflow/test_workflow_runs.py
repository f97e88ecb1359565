"""The workflow itself: dry runs of every config, a whole run on tiny data, kills, and what users get wrong."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from support import ROOT, TINY, command, run, tables

from histoloom.artefacts import read_metadata
from histoloom.embeddings import open_embeddings

pytestmark = pytest.mark.workflow


# Files that a config asks of its user, since no publisher offers them for download.
USERS_OWN = {
    "cellsymphony.yaml": (
        "refs/blueprint.csv.gz", "refs/blueprint_labels.csv",
        "nuclei/breast.geojson", "nuclei/lung.geojson", "nuclei/prostate.geojson", "weights/scgpt",
    )
}  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_every_config_has_a_graph_and_a_dry_run_writes_nothing(path: Path, tmp_path: Path) -> None:
    for name in USERS_OWN.get(path.name, ()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    result = run(tmp_path, "-n", "--config", f"mirror_dir={tmp_path}", config=path, check=False)
    assert "Traceback" not in result.stderr
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    assert not (tmp_path / "results").exists()


def test_without_a_config_the_demo_is_planned(tmp_path: Path) -> None:
    result = run(tmp_path, "-n", config=None)
    assert "label_groups" in result.stdout


def test_a_papers_config_does_not_inherit_the_demo(tmp_path: Path) -> None:
    result = run(tmp_path, "-n")
    assert "results/tables/tiny" in result.stdout
    assert "results/tables/demo" not in result.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny config."""
    folder = tmp_path_factory.mktemp("tiny")
    run(folder)
    return folder


def test_a_run_ends_in_tables_figures_and_a_report(finished: Path) -> None:
    summary = pd.read_csv(finished / "results/tables/tiny/summary.csv")
    assert set(summary["model"]) == {"train_mean", "ridge", "mlp"}
    assert (summary.query("model == 'ridge' and against == 'labels'")["cc"] > 0.1).all()
    for name in ("baselines.png", "bars.png", "mlp/maps.jpg", "mlp/ranks.png", "mlp/colocalization.png"):
        assert (finished / f"results/figures/tiny/{name}").stat().st_size > 5000
    run(finished, "--report", "report.html")
    assert (finished / "report.html").stat().st_size > 100_000
    assert "exclusions.tiny.csv" in (finished / "report.html").read_text()


def test_a_second_run_has_nothing_to_do(finished: Path) -> None:
    assert "Nothing to be done" in (lambda r: r.stdout + r.stderr)(run(finished))


def test_every_job_left_a_log_and_no_half_written_file(finished: Path) -> None:
    for kind in (
        "read_section",
        "cut_tiles",
        "embed_batch",
        "label_groups",
        "train_model",
        "score_model",
        "train_fold",
        "report_model",
    ):
        assert list((finished / "logs").rglob(f"*{kind}*/**/*.log")), kind
    assert not list((finished / "results").rglob(".*.part*"))
    assert not list((finished / "results" / "checkpoints").rglob("*.*"))


def test_excluded_sections_are_listed_and_take_no_part(finished: Path) -> None:
    listed = pd.read_csv(finished / "results/tables/exclusions.tiny.csv")
    assert listed.to_dict("records") == [
        {"cohort": "tiny", "sample": "S9", "patient": "R", "reason": "torn in the middle"}
    ]
    assert not (finished / "results/samples/tiny/S9.h5ad").exists()


def test_a_slide_without_expression_becomes_a_table_and_geojson(finished: Path) -> None:
    stem = finished / "results/slides/unseen/mlp/slides/R1"
    table = pd.read_csv(f"{stem}.tsv", sep="\t")
    features = json.loads(Path(f"{stem}.geojson").read_text())["features"]
    assert len(table) == len(features) > 20
    xs = [x for f in features for x, _ in f["geometry"]["coordinates"][0]]
    assert min(xs) >= -1


def test_published_values_stand_only_beside_comparable_numbers(finished: Path) -> None:
    for number in (1, 2, 3):
        text = (finished / f"results/tables/decomposition/table{number}.md").read_text()
        assert "not run" in text


def test_same_config_elsewhere_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    # Raw files are made again as well: other folder, other time, one core.
    subprocess.run(command(tmp_path, "results/tables/tiny/summary.csv", cores=1), check=True, capture_output=True)
    name = "results/tables/tiny/summary.csv"
    assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_a_change_of_title_retrains_nothing(finished: Path, tmp_path: Path) -> None:
    raw = yaml.safe_load(TINY.read_text())
    raw["experiments"]["tiny"]["title"] = "Another title"
    for cohort in raw["cohorts"].values():
        cohort["sheet"] = str(TINY.parent / cohort["sheet"])
    changed = tmp_path / "c.yaml"
    changed.write_text(yaml.safe_dump(raw))
    result = run(finished, "-n", config=changed)
    jobs = set(re.findall(r"^rule (\w+):", result.stdout, re.M))
    assert "report_experiment" in jobs
    assert (
        not {
            "train_model",
            "train_fold",
            "embed_batch",
            "label_groups",
            "build_target",
            "score_model",
            "audit_sections",
        }
        & jobs
    )


def test_features_of_other_software_reach_a_model(finished: Path, tmp_path: Path) -> None:
    """The run's own features in HEST's form give the same numbers; in TRIDENT's form, where every tenth tile lacks, fewer."""
    found = open_embeddings(sorted((finished / "results/embeddings/um112/texture/tiny").glob("*.h5")))
    for name in dict.fromkeys(found.obs["sample"]):
        rows = found.obs["sample"] == name
        side = 112 / read_metadata(finished / f"results/samples/tiny/{name}.h5ad")["mpp"]
        features, corners = found.rows()[rows], found.coords[rows] - side / 2
        with h5py.File(tmp_path / f"{name}.hest.h5", "w") as handle:
            handle["embeddings"], handle["coords"] = features, corners
            handle["barcodes"] = np.array(found.obs["obs_id"][rows], "S")[:, None]
        there = np.arange(len(corners)) % 10 != 0
        with h5py.File(tmp_path / f"{name}.trident.h5", "w") as handle:
            handle["features"], handle["coords"] = features[None, there], np.rint(corners[there] + 3)
            handle["coords"].attrs.update({"patch_size": 224, "patch_size_level0": round(side)})
    given = {"kind": "precomputed", "card": "stain_texture", "tiles": "um112", "sections_per_batch": 2}
    tiny = yaml.safe_load(TINY.read_text())["experiments"]["tiny"]
    change: dict[str, object] = {}
    for form in ("hest", "trident"):
        files = f"{tmp_path}/{{sample}}.{form}.h5"
        change[f"encoders.{form}"] = {**given, "format": form, "files": files, "max_shift_um": 10}
        change[f"models.{form}"] = {"kind": "ridge", "inputs": [form]}
        change[f"experiments.{form}"] = {**tiny, "models": [form]}
    names = [f"results/metrics/{form}/{form}.parquet" for form in ("hest", "trident")]
    done = run(finished, *names, config=variant(tmp_path, change))
    assert "import_embeddings" in done.stdout + done.stderr
    assert "embed_batch" not in done.stdout + done.stderr
    ours, hest, _ = (pd.read_parquet(finished / name) for name in ("results/metrics/tiny/ridge.parquet", *names))
    np.testing.assert_allclose(hest["value"], ours["value"], rtol=1e-9, equal_nan=True)
    steps = read_metadata(finished / "results/targets/trident/target.h5ad")["steps"]
    assert len(steps) == 4
    assert all(0 < step["joined"] == step["embedded"] < 0.95 * step["labelled"] for step in steps)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_runs_resume_to_the_same_tables(seed: int, finished: Path, tmp_path: Path) -> None:
    """kill -9 of the run, or of a worker, at some moment; then what `make resume` does; tables are equal to the byte."""
    rng = random.Random(seed)
    shutil.copytree(finished / "results/sources", tmp_path / "results/sources", symlinks=True)
    shutil.copytree(finished / ".snakemake/metadata", tmp_path / ".snakemake/metadata")
    started = subprocess.Popen(
        command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(rng.uniform(6, 18))
    if seed % 2:
        os.kill(started.pid, signal.SIGKILL)
    else:
        kill_a_worker(tmp_path, rng)
    started.wait(timeout=120)
    clear = [sys.executable, str(ROOT / "scripts" / "tools" / "clear_run.py")]
    subprocess.run(clear, cwd=tmp_path, check=True)
    run(tmp_path, "--unlock")
    run(tmp_path)
    assert tables(tmp_path) == tables(finished)
    assert not list((tmp_path / "results").rglob(".*.part*"))


def kill_a_worker(folder: Path, rng: random.Random) -> None:
    import psutil

    for _ in range(100):
        workers = [
            p for p in psutil.process_iter(["cmdline"])
            if any(f"{folder}/.snakemake/scripts/" in word for word in p.info["cmdline"] or [])
        ]  # fmt: skip
        if workers:
            rng.choice(workers).kill()
            return
        time.sleep(0.1)


def test_a_living_run_is_not_resumed_over(finished: Path, tmp_path: Path) -> None:
    started = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(4)
        clear = [sys.executable, str(ROOT / "scripts" / "tools" / "clear_run.py")]
        result = subprocess.run(clear, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert result.returncode == 1
        assert "A run is alive" in result.stderr
        assert started.poll() is None
    finally:
        started.send_signal(signal.SIGINT)
        started.wait(timeout=60)


def variant(tmp_path: Path, change: dict[str, object], sheet_edit: tuple[str, str] | None = None) -> Path:
    raw = yaml.safe_load(TINY.read_text())
    for key, value in change.items():
        place = raw
        *path, last = key.split(".")
        for part in path:
            place = place[part]
        place[last] = value
    for name in ("tiny.tsv", "tiny_slides.tsv"):
        text = (TINY.parent / name).read_text()
        if sheet_edit and name == "tiny.tsv":
            assert sheet_edit[0] in text
            text = text.replace(*sheet_edit)
        (tmp_path / name).write_text(text)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(raw))
    return tmp_path / "c.yaml"


@pytest.mark.parametrize(
    ("change", "edit", "says"),
    [
        ({"experiments.tiny.splitt": 1}, None, ["experiments.tiny", "Did you mean 'split'"]),
        ({"experiments.tiny.cohorts": ["tinny"]}, None, ["'tinny' is not under cohorts", "Did you mean 'tiny'"]),
        ({}, ("P2\tP", "P1\tP"), ["row 3 (sample 'P1')", "already in row 2"]),
        ({}, ("Q1\tQ", "Q1\t"), ["row 4 (sample 'Q1')", "patient is empty"]),
    ],
)
def test_bad_config_stops_before_any_job(tmp_path: Path, change: dict, edit: tuple | None, says: list[str]) -> None:
    result = run(tmp_path, "-n", config=variant(tmp_path, change, edit), check=False)
    assert result.returncode == 1
    for text in says:
        # A dry run reports to stdout.
        assert text in result.stdout + result.stderr
    assert not (tmp_path / "results").exists()


def test_one_bad_section_stops_with_its_name_and_leaves_nothing_half_written(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "results/sources", tmp_path / "results/sources")
    shutil.copytree(finished / ".snakemake/metadata", tmp_path / ".snakemake/metadata")
    image = tmp_path / "results/sources/simulated/tiny/data/ST-imgs/Q1/Q1_HE.jpg"
    stamp = image.stat().st_mtime
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    os.utime(image, (stamp, stamp))
    changed = run(tmp_path, "results/samples/tiny/Q1.h5ad", check=False)
    assert "Q1_HE.jpg: its bytes are not those that were written" in changed.stderr
    # A user's own file has no record.
    image.with_name(f".{image.name}.sha256").unlink()
    result = run(tmp_path, "results/samples/tiny/Q1.h5ad", "results/samples/tiny/P1.h5ad", check=False)
    assert result.returncode == 1
    assert "Q1_HE.jpg" in result.stderr
    assert "exclude" in result.stderr
    assert (tmp_path / "results/samples/tiny/P1.h5ad").exists()
    assert [p.name for p in (tmp_path / "results/samples/tiny").glob("[!.]*")] == ["P1.h5ad"]
