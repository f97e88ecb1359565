"""The doctor: each way in which a run cannot succeed, seen before it starts."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from histoloom.embeddings.cards import load_cards
from histoloom_operations.findings import FAIL, OK, WARN, Finding, as_table
from histoloom_operations.machine import check_packages, compare_pins
from histoloom_operations.preflight import check_run
from loopback import Site, running_site, status

HER2ST: dict[str, Any] = {
    "cohorts": {"her2st": {"source": "her2st", "sheet": "cohorts/her2st.tsv", "samples": ["B4", "C2"]}},
    "tiles": {"um112": {"size_px": 224, "um_per_px": 0.5}},
    "labels": {"stereo": {"method": "published", "table": "stereoscope_major"}},
    "encoders": {"texture": {"card": "stain_texture", "tiles": "um112"}, "uni": {"card": "uni", "tiles": "um112"}},
    "models": {"ridge": {"kind": "ridge", "inputs": ["texture"]}, "big": {"kind": "ridge", "inputs": ["uni"]}},
    "experiments": {
        "loo": {
            "task": "evaluate",
            "cohorts": ["her2st"],
            "tiles": "um112",
            "split": "leave_one_patient_out",
            "labels": "stereo",
            "models": ["ridge"],
        }
    },
}
FILES = [
    "data/ST-cnts/B4.tsv.gz",
    "data/ST-spotfiles/B4_selection.tsv",
    "data/ST-imgs/B/B4/BT10737_D2_HE.jpg",
    "data/ST-cnts/C2.tsv.gz",
    "data/ST-spotfiles/C2_selection.tsv",
    "data/ST-imgs/C/C2/5714_HE_BT_C2.jpg",
    "res/ST-deconv/props/major.zip",
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without network, token or cache."""

    def nowhere(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    for name in ("HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pins.txt").write_text("numpy\n")
    return tmp_path


def visit(repo: Path, place: Path, config: dict[str, Any], **options: Any) -> dict[str, Finding]:
    found = check_run(config, [repo / "config" / "x.yaml"], requirements=place / "pins.txt", **options)
    assert len({finding.subject for finding in found}) == len(found)
    return {finding.subject: finding for finding in found}


def failed(findings: dict[str, Finding]) -> set[str]:
    return {about for about, finding in findings.items() if finding.state == FAIL}


def with_model(**encoder: Any) -> dict[str, Any]:
    config = copy.deepcopy(HER2ST)
    config["experiments"]["loo"]["models"] = ["big"]
    config["encoders"]["uni"].update(encoder)
    return config


def fill_mirror(folder: Path, repo: Path, files: list[str]) -> None:
    sizes = {}
    for line in (repo / "resources" / "files" / "her2st.tsv").read_text().splitlines():
        cells = line.split("\t")
        if len(cells) > 3 and cells[2].isdigit():
            sizes[cells[0]] = int(cells[2])
    for file in files:
        path = folder / "her2st" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as handle:
            handle.truncate(sizes[file])


def test_the_demo_needs_nothing(place: Path, repo: Path) -> None:
    config = yaml.safe_load((repo / "config" / "config.yaml").read_text())
    found = check_run(config, [repo / "config" / "config.yaml"], requirements=place / "pins.txt")
    assert not [finding for finding in found if finding.state == FAIL]
    assert Finding("to fetch", OK, "nothing") in found


def test_no_network_says_what_to_copy_where(place: Path, repo: Path) -> None:
    found = visit(repo, place, HER2ST)
    assert failed(found) == {"network: her2st"}
    told = found["network: her2st"].message
    assert "raw.githubusercontent.com" in told
    assert "<folder>/her2st/data/ST-cnts/B4.tsv.gz" in told
    assert found["to fetch"].message.startswith("7 files of her2st: ")


def test_bytes_are_those_of_the_files_that_lack(place: Path, repo: Path) -> None:
    whole = visit(repo, place, HER2ST)["to fetch"].message
    fill_mirror(place / "results" / "sources", repo, FILES[:3])
    found = visit(repo, place, HER2ST)
    assert found["fetched already"].message == "3 files"
    assert found["to fetch"].message.startswith("4 files")
    assert whole != found["to fetch"].message


def test_a_mirror_with_everything_needs_no_network(place: Path, repo: Path) -> None:
    fill_mirror(place / "copy", repo, FILES)
    assert failed(visit(repo, place, {**HER2ST, "mirror_dir": "copy"})) == set()


def test_a_mirror_that_lacks_a_file_or_holds_another(place: Path, repo: Path) -> None:
    fill_mirror(place / "copy", repo, FILES[1:])
    found = visit(repo, place, {**HER2ST, "mirror_dir": "copy"})
    assert failed(found) == {"mirror: her2st"}
    assert "1 of 7 files" in found["mirror: her2st"].message
    assert "copy/her2st/data/ST-cnts/B4.tsv.gz" in found["mirror: her2st"].message
    fill_mirror(place / "copy", repo, FILES)
    (place / "copy" / "her2st" / FILES[0]).write_bytes(b"short")
    assert "not of the published size" in visit(repo, place, {**HER2ST, "mirror_dir": "copy"})["mirror"].message


def test_a_disk_that_cannot_hold_the_files(place: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_010_000_000))
    found = visit(repo, place, HER2ST)
    assert found["disk"].state == OK or "free space" in found["disk"].message
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5_000_000))
    assert visit(repo, place, HER2ST)["disk"].state == FAIL


def test_gated_weights_without_a_token(place: Path, repo: Path) -> None:
    found = visit(repo, place, with_model(weights="hub"))
    assert "encoder: uni" in failed(found)
    assert "https://huggingface.co/MahmoodLab/UNI" in found["encoder: uni"].message
    assert "HF_TOKEN" in found["encoder: uni"].message
    assert found["gpu"].state in (OK, WARN)
    assert visit(repo, place, with_model(weights="random"))["encoder: uni"].state == OK


def test_weights_by_path_must_be_there(place: Path, repo: Path) -> None:
    assert "encoder: uni" in failed(visit(repo, place, with_model(weights="w.bin")))
    (place / "w.bin").write_bytes(b"x")
    assert "encoder: uni" not in failed(visit(repo, place, with_model(weights="w.bin")))


def test_weights_in_the_cache_need_no_network(place: Path, repo: Path) -> None:
    commit = load_cards()["uni"]["revision"]
    folder = place / "no-cache" / "models--MahmoodLab--UNI"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "pytorch_model.bin").write_bytes(b"x")
    found = visit(repo, place, with_model(weights="hub"))["encoder: uni"]
    assert (found.state, commit[:12] in found.message) == (OK, True)


def test_a_branch_is_said_to_be_no_pin(place: Path, repo: Path) -> None:
    commit, folder = "d" * 40, place / "no-cache" / "models--MahmoodLab--UNI"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "pytorch_model.bin").write_bytes(b"x")
    found = visit(repo, place, with_model(weights="hub", revision="main"))["encoder: uni"]
    assert found.state == WARN
    assert "NOT PINNED: 'main' is a branch" in found.message


@pytest.fixture
def hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.undo()
    monkeypatch.chdir(place)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "no-cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_Secret")
    with running_site() as site:
        monkeypatch.setenv("HF_ENDPOINT", site.host)
        yield site


def test_a_token_that_the_hub_refuses_and_one_that_it_takes(hub: Site, place: Path, repo: Path) -> None:
    path = "/api/models/MahmoodLab/UNI/auth-check"
    hub.script[path] = [status(403, X_Error_Code="GatedRepo")]
    found = visit(repo, place, with_model(weights="hub"))["encoder: uni"]
    assert found.state == FAIL
    assert "403" in found.message
    assert "hf_Secret" not in found.message
    hub.pages[path] = {}
    assert visit(repo, place, with_model(weights="hub"))["encoder: uni"].state == OK
    assert any(headers.get("Authorization") == "Bearer hf_Secret" for _, headers in hub.requests)


def test_own_files_must_be_there(place: Path, repo: Path) -> None:
    (place / "cohort.tsv").write_text(
        "sample\tpatient\tcounts\tpositions\timage\tmpp\tspot_diameter_um\nS1\tP1\tc.tsv\tp.csv\ti.png\t0.5\t100\n"
    )
    config = copy.deepcopy(HER2ST)
    config["cohorts"] = {"her2st": {"source": "files", "sheet": str(place / "cohort.tsv")}}
    config["labels"] = {"stereo": {"method": "nnls", "reference": "ref"}}
    config["references"] = {"ref": {"source": "h5ad", "path": str(place / "ref.h5ad")}}
    config["genes"] = {"match": "name"}
    found = visit(repo, place, config)
    assert failed(found) == {"own files"}
    assert all(str(place / name) in found["own files"].message for name in ("c.tsv", "p.csv", "i.png", "ref.h5ad"))
    for name in ("c.tsv", "p.csv", "i.png", "ref.h5ad"):
        (place / name).write_bytes(b"x")
    found = visit(repo, place, config)
    assert failed(found) == {"inside own files"}
    # All of them in one list: positions, slide and reference are opened.
    assert all(str(place / name) in found["inside own files"].message for name in ("p.csv", "i.png", "ref.h5ad"))


def test_the_gene_table_is_needed_where_sources_meet(place: Path, repo: Path) -> None:
    config = copy.deepcopy(HER2ST)
    config["labels"] = {"stereo": {"method": "nnls", "reference": "ref"}}
    config["references"] = {"ref": {"source": "h5ad", "path": str(place / "ref.h5ad")}}
    (place / "ref.h5ad").write_bytes(b"x")
    unreadable = {"inside own files"}
    found = visit(repo, place, config)
    assert failed(found) - unreadable == {"network: her2st", "network: genes"}
    told = found["network: genes"].message
    assert "<folder>/genes/hgnc_complete_set_" in told
    assert "genes: {match: name}" in told
    fill_mirror(place / "copy", repo, FILES)
    found = visit(repo, place, {**config, "mirror_dir": "copy"})
    assert failed(found) - unreadable == {"mirror: genes"}
    assert "copy/genes/hgnc_complete_set_" in found["mirror: genes"].message
    assert "genes: {match: name}" in found["mirror: genes"].message
    assert failed(visit(repo, place, {**config, "mirror_dir": "copy", "genes": {"match": "name"}})) == unreadable
    (place / "hgnc.tsv").write_text("x")
    assert failed(visit(repo, place, {**config, "mirror_dir": "copy", "genes": {"table": "hgnc.tsv"}})) == unreadable


def test_a_config_that_does_not_hold_is_the_first_row(place: Path, repo: Path) -> None:
    found = check_run({**HER2ST, "colour": 1}, [repo / "config" / "x.yaml"], requirements=place / "pins.txt")
    assert (found[0].subject, found[0].state) == ("config", FAIL)
    assert "unknown key 'colour'" in found[0].message
    assert "machine" in {finding.subject for finding in found}


def test_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy

    pins = tmp_path / "pins.txt"
    pins.write_text(f"# one\nnumpy=={numpy.__version__}\n\nnot-a-package-of-ours==1.0  # two\nPyYAML==0.0.1\n")
    missing, other = compare_pins(pins)
    assert missing == ["not-a-package-of-ours"]
    assert [text.split()[0] for text in other] == ["PyYAML"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_packages(pins)[0].state == FAIL
    (tmp_path / "mamba").write_text("#!/bin/sh\n")
    (tmp_path / "mamba").chmod(0o755)
    assert [finding.state for finding in check_packages(pins)] == [WARN, OK]


def test_a_cluster_without_its_commands(place: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    assert visit(repo, place, HER2ST)["slurm"].state == OK
    assert visit(repo, place, HER2ST, slurm=True)["slurm"].state == FAIL
    for name in ("sbatch", "squeue", "sacct", "scancel"):
        (place / name).write_text("#!/bin/sh\n")
        (place / name).chmod(0o755)
    assert visit(repo, place, HER2ST, slurm=True)["slurm"].state == OK


def test_gpus_are_read_from_the_drivers_tool(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from histoloom_operations.machine import gpus

    tool = place / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771, 143000'\necho 'NVIDIA T4, 15360, [N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    assert gpus() == [("NVIDIA H200", 143771, 143000)]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert gpus() == []


def test_the_table_is_aligned_and_closes_with_a_verdict() -> None:
    address = "https://host/" + hashlib.sha256(b"").hexdigest() * 2
    told = as_table(
        [Finding("config", OK, "good"), Finding("mirror", FAIL, f"words before {address} " + "and after " * 20)]
    )
    lines = told.splitlines()
    column = lines[0].index("message")
    assert all(line[column - 1] == " " for line in lines[2:-2] if line.strip())
    assert address in told
    assert lines[-1] == "This run cannot succeed here: mirror."
    assert as_table([Finding("config", OK, "good")]).endswith("Nothing stands in the way of this run.")


def test_the_tool_merges_configs_and_exits_1(place: Path, repo: Path) -> None:
    (place / "a.yaml").write_text(yaml.safe_dump(with_model(weights="nowhere.bin")))
    sheet = yaml.safe_dump({"cohorts": {"her2st": {"sheet": str(repo / "config" / "cohorts" / "her2st.tsv")}}})
    (place / "b.yaml").write_text(sheet)
    fill_mirror(place / "copy", repo, FILES)
    command = [
        sys.executable,
        str(repo / "scripts" / "tools" / "doctor.py"),
        "a.yaml",
        "b.yaml",
        "--config",
        "mirror_dir=copy",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "no file nowhere.bin" in done.stdout
    assert "encoder: uni" in done.stdout.splitlines()[-1]
    assert "mirror" not in done.stdout.splitlines()[-1]
    (place / "nowhere.bin").write_bytes(b"x")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (int("packages" in done.stdout.splitlines()[-1]), "")
