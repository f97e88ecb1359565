"""One lease of a GPU for every job, one batch size, one efficiency record."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from error_codes import has_code
from histoloom import devices
from histoloom.devices import find_batch_size, lease_device
from histoloom.efficiency import Meter
from histoloom.errors import InputError

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["GPU-a", "GPU-b"])


@contextmanager
def other_process(folder: Path, *gpus: str) -> Iterator[None]:
    """Lease a GPU in another process, until the block ends."""
    code = (
        "import sys; from pathlib import Path; from histoloom import devices\n"
        f"devices.visible_gpus = lambda: {list(gpus)!r}\n"
        f"with devices.lease_device('auto', Path({str(folder)!r})) as device:\n"
        "    print(device, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(Path(devices.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("cuda")
        try:
            yield
        finally:
            process.communicate("")


def leased(choice: str, folder: Path) -> str:
    with lease_device(choice, folder) as device:
        return device


def test_processes_get_different_gpus_and_then_the_cpu(tmp_path: Path, two_gpus: None, caplog: object) -> None:
    with other_process(tmp_path, "GPU-a", "GPU-b"):
        with lease_device("auto", tmp_path) as device:
            assert device == "cuda:1"
            assert leased("auto", tmp_path) == "cuda:1", "a process that leases again keeps its GPU"
        with other_process(tmp_path, "GPU-b"):
            assert leased("auto", tmp_path) == "cpu"
            assert leased("cuda", tmp_path) in {"cuda:0", "cuda:1"}, "a GPU asked for by kind is shared"
            assert "all 2 GPUs are in use" in caplog.text  # type: ignore[attr-defined]
    assert leased("auto", tmp_path) == "cuda:0", "a process that ends gives its GPU back"


def test_gpus_are_known_by_identifier_not_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with other_process(tmp_path, "GPU-b"):
        monkeypatch.setattr(devices, "visible_gpus", lambda: ["GPU-b", "GPU-a"])
        assert leased("auto", tmp_path) == "cuda:1"


def test_a_lease_ends_with_its_block(tmp_path: Path, two_gpus: None) -> None:
    with pytest.raises(KeyError), lease_device("auto", tmp_path) as device:
        assert device == "cuda:0"
        raise KeyError
    with other_process(tmp_path, "GPU-a"):
        assert leased("auto", tmp_path) == "cuda:1"


def test_the_gpu_of_a_scheduler_is_taken_without_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["GPU-a"])
    with other_process(tmp_path, "GPU-a"):
        assert leased("auto", tmp_path) == "cpu"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        assert leased("auto", tmp_path) == "cuda:0"


def test_devices_by_name(tmp_path: Path, two_gpus: None) -> None:
    assert [leased(choice, tmp_path) for choice in ("cpu", "cuda:0", "cuda:1")] == ["cpu", "cuda:0", "cuda:1"]
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, check=has_code("gpu-none")):
        leased("cuda:2", tmp_path)
    for choice in ("tpu", "cuda:x", "cuda:-1", ""):
        with pytest.raises(InputError, check=has_code("device-name")):
            leased(choice, tmp_path)


def test_a_gpu_is_asked_for_and_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert leased("auto", tmp_path) == "cpu"
    for choice in ("cuda", "cuda:0"):
        with pytest.raises(InputError, check=has_code("gpu-none")):
            leased(choice, tmp_path)


def test_the_cpu_needs_no_torch() -> None:
    code = (
        "import sys; from histoloom.devices import lease_device; from histoloom.efficiency import Meter\n"
        "with lease_device('cpu') as device: Meter('x', device).record(1)\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(Path(devices.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize(
    ("fits", "largest", "expected"), [(1000, 512, 512), (100, 512, 64), (16, 512, 16), (5, 512, 4), (1, 512, 1)]
)
@pytest.mark.parametrize("raises", [True, False])
def test_batch_size_is_doubled_up_to_the_budget(fits: int, largest: int, expected: int, raises: bool) -> None:
    tried = []

    def used_by(size: int) -> float:
        tried.append(size)
        if raises and size > fits:
            raise torch.OutOfMemoryError("no room")
        return 10.0 * size

    assert find_batch_size(used_by, 10.0 * fits, largest=largest) == expected
    assert max(tried) <= largest


def test_not_one_item_fits() -> None:
    with pytest.raises(InputError, check=has_code("gpu-memory")):
        find_batch_size(lambda size: 2.0, 1.0)


def test_record(tmp_path: Path) -> None:
    meter = Meter("labels", "cpu", threads=2)
    meter.write(tmp_path / "r.json", 45, precision="float32", items_per_s=7.0)
    record = json.loads((tmp_path / "r.json").read_text())
    assert {k: record[k] for k in ("stage", "items", "items_per_s", "device", "threads", "peak_gpu_mb", "precision")} == {
        "stage": "labels", "items": 45, "items_per_s": 7.0, "device": "cpu", "threads": 2, "peak_gpu_mb": None,
        "precision": "float32",
    }  # fmt: skip
    assert record["peak_rss_mb"] > 10
    assert record["seconds"] >= 0
    assert record["hardware"]
