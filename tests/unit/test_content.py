"""Artefacts whose bytes changed behind the workflow's back stop the job that reads them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from histoloom import content
from histoloom.artefacts import read_metadata, write_parquet, write_sidecar
from histoloom.jobs import job

ROOT = Path(__file__).resolve().parents[2]


def write_h5(path: Path, seed: int) -> None:
    with h5py.File(path, "w") as handle:
        handle["embeddings"] = np.random.default_rng(seed).normal(size=(200, 16))
        handle["obs_id"] = np.array([f"spot{i}" for i in range(200)], dtype=h5py.string_dtype())
        handle.attrs["histoloom"] = json.dumps({"identity": {"sha256": "the same"}})


def write_table(path: Path, seed: int) -> None:
    write_parquet(pd.DataFrame({"a": np.random.default_rng(seed).normal(size=500)}), path, {"identity": {}})


def write_npy(path: Path, seed: int) -> None:
    np.save(path, np.random.default_rng(seed).integers(0, 255, (50, 8, 8, 3), np.uint8))


def write_pt(path: Path, seed: int) -> None:
    import torch

    torch.save({"w": torch.from_numpy(np.random.default_rng(seed).normal(size=(40, 40)))}, path)


def write_json(path: Path, seed: int) -> None:
    path.write_text(json.dumps(list(np.random.default_rng(seed).normal(size=200))))


def write_csv(path: Path, seed: int) -> None:
    pd.DataFrame({"a": np.random.default_rng(seed).normal(size=500)}).to_csv(path)
    write_sidecar(path, {"identity": {"sha256": f"{seed}"}})


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "h5": write_h5, "parquet": write_table, "npy": write_npy, "pt": write_pt, "json": write_json, "csv": write_csv,
}  # fmt: skip


def made(folder: Path, kind: str, seed: int = 0) -> Path:
    path = folder / f"results/a{seed}.{kind}"
    with job(folder / "log", {"x": path}) as out:
        WRITERS[kind](out["x"], seed)
    return path


def reads(folder: Path, *paths: Path, work: Callable[[], Any] = lambda: None) -> str:
    """Return what the log of a job that reads files says; empty where it ended well."""
    try:
        with job(folder / "log", {}, paths):
            work()
    except SystemExit:
        return (folder / "log").read_text()
    return ""


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 64] = bytes(255 - value for value in raw[middle : middle + 64])
    path.write_bytes(raw)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def half(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2))


@pytest.mark.parametrize("damage", [flip, cut, half])
@pytest.mark.parametrize("kind", WRITERS)
def test_damage_with_the_date_kept(tmp_path: Path, kind: str, damage: Callable[[Path], None]) -> None:
    path, sound = made(tmp_path, kind), made(tmp_path, kind, 1)
    assert not reads(tmp_path, path, sound)
    before = path.stat()
    damage(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    said = reads(tmp_path, sound, path)
    assert f"{path}: its bytes are not those that were written" in said
    assert f"rm '{path}'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("kind", WRITERS)
def test_two_files_exchanged(tmp_path: Path, kind: str) -> None:
    first, second = made(tmp_path, kind), made(tmp_path, kind, 1)
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    assert f"{first}: its bytes" in reads(tmp_path, first)


def test_rows_in_another_order_under_the_same_identity(tmp_path: Path) -> None:
    path = made(tmp_path, "h5")
    with h5py.File(path, "r+") as handle:
        handle["embeddings"][:] = handle["embeddings"][()][::-1]
    assert read_metadata(path)["identity"] == {"sha256": "the same"}
    assert "exchanged" in reads(tmp_path, path)


def test_the_facts_beside_a_csv_count_too(tmp_path: Path) -> None:
    path = made(tmp_path, "csv")
    write_sidecar(path, {"identity": {"sha256": "another"}})
    assert f"{path}.json: its bytes" in reads(tmp_path, path)
    path.with_name(path.name + ".json").unlink()
    assert "missing" in reads(tmp_path, path)


def test_the_switch_and_files_without_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path, "json")
    path.write_text("[1]")
    assert reads(tmp_path, path)
    monkeypatch.setenv(content.SWITCH, "off")
    assert not reads(tmp_path, path)
    monkeypatch.delenv(content.SWITCH)
    path.with_name(f".{path.name}.sha256").unlink()
    assert not reads(tmp_path, path)


def test_a_file_made_again_has_a_new_record(tmp_path: Path) -> None:
    path = made(tmp_path, "json")
    with job(tmp_path / "log", {"x": path}) as out:
        write_json(out["x"], 5)
    assert not reads(tmp_path, path)


def test_sha256sum_reads_the_records(tmp_path: Path) -> None:
    path = made(tmp_path, "csv")
    call = ["sha256sum", "--check", "--strict", f".{path.name}.sha256"]
    assert subprocess.run(call, cwd=path.parent, check=False, capture_output=True).returncode == 0


def read_it(kind: str, path: Path) -> Any:
    if kind == "h5":
        with h5py.File(path, "r") as handle:
            return handle["embeddings"][()].sum() + len(handle["obs_id"][()])
    if kind == "pt":
        import torch

        return torch.load(path, weights_only=True)
    readers: dict[str, Callable[[Path], Any]] = {"parquet": pd.read_parquet, "npy": np.load}
    return readers[kind](path) if kind in readers else json.loads(path.read_text())


@pytest.mark.parametrize("kind", ["h5", "parquet", "npy", "pt", "json"])
def test_a_cut_file_without_a_record_gets_the_same_message(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path, kind)
    sound = made(tmp_path, kind, 1)
    path.with_name(f".{path.name}.sha256").unlink()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    said = reads(tmp_path, sound, path, work=lambda: read_it(kind, path))
    assert f"{path}: it cannot be read as {kind}" in said
    assert f"rm '{path}'" in said
    assert "Traceback" not in said


def test_a_fault_of_the_code_keeps_its_traceback(tmp_path: Path) -> None:
    path = made(tmp_path, "h5")
    said = reads(tmp_path, path, work=lambda: {}["no such key"])
    assert "Traceback" in said
    assert "content-changed" not in said


def test_too_little_memory_is_no_traceback(tmp_path: Path) -> None:
    said = reads(tmp_path, work=lambda: np.empty(2**60, np.uint8))
    assert "there is not enough memory" in said
    assert "Traceback" not in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    call = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)]
    if subprocess.run(call, check=False, capture_output=True).returncode:
        pytest.skip("a disk of its own needs the right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def write_big(kind: str, path: Path) -> None:
    values = np.random.default_rng(0).normal(size=200_000)
    if kind == "h5":
        with h5py.File(path, "w") as handle:
            handle["x"] = values
    elif kind == "h5ad":
        import anndata

        anndata.AnnData(values.reshape(-1, 100)).write_h5ad(path)
    elif kind == "parquet":
        write_parquet(pd.DataFrame({"a": values}), path, {})
    elif kind == "npy":
        np.save(path, values)
    elif kind == "pt":
        import torch

        torch.save({"w": torch.from_numpy(values)}, path)
    elif kind == "png":
        from PIL import Image

        Image.fromarray(np.random.default_rng(0).integers(0, 255, (800, 800, 3), np.uint8)).save(path)
    else:
        path.write_text(json.dumps(list(values)))


@pytest.mark.parametrize("kind", ["h5", "h5ad", "parquet", "npy", "pt", "png", "json"])
def test_a_full_disk_says_so_whatever_is_written(tmp_path: Path, small_disk: Path, kind: str) -> None:
    log, path = tmp_path / "log", small_disk / "results" / f"a.{kind}"
    with pytest.raises(SystemExit), job(log, {"x": path}) as out:
        write_big(kind, out["x"])
    assert f"{path.parent}: the disk (or its quota) is full" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert list(path.parent.iterdir()) == []


def test_every_adapter_gives_its_inputs(repo: Path) -> None:
    for path in sorted((repo / "scripts").glob("*.py")):
        text = path.read_text()
        assert ("snakemake.input" in text) == (".items(), snakemake.input" in text), path.name
