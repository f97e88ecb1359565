"""cell2location's two fits, stopped somewhere and gone on with: the same bytes as unbroken; and fits refused for size."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from pyro.infer import SVI
from scipy.sparse import csr_matrix

from error_codes import has_code
from histoloom import checkpoints
from histoloom.checkpoints import Checkpoint, Checkpoints, Stopped
from histoloom.errors import InputError
from histoloom.job_resources import OVERHEAD_MB, deconvolution_mb
from histoloom.references.signatures import regression_signatures
from label_inputs import run_labels, signatures, true_cells, write_reference, write_section

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 14
SPEC = {
    "method": "cell2location", "reference": "r", "max_epochs": EPOCHS, "lr": 0.02, "posterior_samples": 10,
    "n_cells_per_location": 30,
}  # fmt: skip


def write_group(folder: Path) -> dict[str, Any]:
    """Two small sections and a reference: the arguments of a labelling."""
    table, sections = signatures(), []
    for i in range(2):
        rng = np.random.default_rng(20 + i)
        counts = rng.poisson(true_cells(25, 4, 10 + i) @ table.to_numpy().T * 0.3)
        sections.append(write_section(folder / f"S{i}.h5ad", counts, table.index, sample=f"S{i}"))
    return {"samples": sections, "reference": write_reference(folder / "reference.h5ad", table)}


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_group(tmp_path_factory.mktemp("group"))


def signal_at(monkeypatch: pytest.MonkeyPatch, epoch: int, number: int) -> None:
    """Send this process a signal in the middle of an epoch; some epochs earlier a state is saved."""
    step = SVI.step

    def at(self: SVI, *arguments: Any, **options: Any) -> Any:
        if len(epochs) == epoch:
            os.kill(os.getpid(), number)
        return step(self, *arguments, **options)

    tick, epochs = Checkpoint.tick, [""]

    def saving(self: Checkpoint, state: Any, progress: str) -> None:
        epochs.append(progress)
        self._next = 0.0 if len(epochs) == epoch - 2 else float("inf")
        tick(self, state, progress)

    monkeypatch.setattr(SVI, "step", at)
    monkeypatch.setattr(Checkpoint, "tick", saving)


def label(tmp: Path, group: dict[str, Any], **spec: Any) -> bytes:
    tmp.mkdir(exist_ok=True)
    return run_labels({**SPEC, **spec}, tmp=tmp, seed=3, **group).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 20], ids=["all spots at once", "shuffled batches"])
def test_a_deconvolution_asked_to_end_goes_on_to_the_same_bytes(
    batch_size: int | None, group: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Lightning has a handler of its own for SIGTERM, which would end the fit unsaved."""
    unbroken = label(tmp_path / "unbroken", group, batch_size=batch_size)
    before = signal.getsignal(signal.SIGTERM)
    epoch = random.Random(str(batch_size)).randrange(4, EPOCHS - 1)
    with caplog.at_level(logging.INFO):
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(Stopped, match=f"SIGTERM: saved at epoch {epoch} of {EPOCHS}"),
        ):
            signal_at(patch, epoch, signal.SIGTERM)
            label(tmp_path / "a", group, batch_size=batch_size)
        assert signal.getsignal(signal.SIGTERM) == before
        # Another optimiser's state is not taken for this one's.
        other = label(tmp_path / "a", group, batch_size=batch_size, lr=0.01)
        assert "not used" in caplog.text
        assert "going on" not in caplog.text
        assert label(tmp_path / "a", group, batch_size=batch_size) == unbroken != other
    assert f"going on from epoch {epoch} of {EPOCHS}" in caplog.text


@pytest.mark.slow
def test_signatures_asked_to_end_go_on_to_the_same_bits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng, table = np.random.default_rng(0), signatures()
    types = np.repeat(list(table.columns), 30)
    data = ad.AnnData(
        csr_matrix(rng.poisson(table[list(types)].to_numpy().T).astype(np.int32)),
        obs=pd.DataFrame({"cell_type": types, "donor": np.tile(["d", "e"], 60), "assay": "a"}).astype(str),
        var=pd.DataFrame(index=table.index),
    )
    spec = {"method": "regression", "max_epochs": EPOCHS, "lr": 0.02, "batch_size": 40, "posterior_samples": 5}

    def fit(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
        return regression_signatures(data, spec, seed=1, threads=1, checkpoints=Checkpoints(folder, "reference"))

    unbroken, report = fit(tmp_path / "unbroken")
    assert not (tmp_path / "unbroken").exists()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        signal_at(patch, 9, signal.SIGUSR1)
        fit(tmp_path / "a")
    with caplog.at_level(logging.INFO):
        again, again_report = fit(tmp_path / "a")
    assert f"going on from epoch 9 of {EPOCHS}" in caplog.text
    pd.testing.assert_frame_equal(again, unbroken, check_exact=True)
    assert again_report == report


KILLED = """
import sys
sys.path[:0] = {paths}
from pathlib import Path
import test_checkpoints_cell2location as t
import pytest

t.signal_at(pytest.MonkeyPatch(), {epoch}, {number})
t.label(Path({folder}), t.write_group(Path({folder})))
"""


@pytest.mark.slow
def test_a_deconvolution_killed_in_its_process_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """kill -9 at a random epoch; the checkpoint is three epochs older, which are done again."""
    epoch, folder = random.Random(9).randrange(5, EPOCHS), tmp_path / "a"
    folder.mkdir()
    code = KILLED.format(
        paths=[str(ROOT / "tests" / "unit"), str(ROOT / "tests"), str(ROOT / "workflow" / "src")],
        epoch=epoch,
        number=int(signal.SIGKILL),
        folder=repr(str(folder)),
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert len(list((folder / "scratch").glob("*.ckpt"))) == 1
    group = {"samples": sorted(folder.glob("S*.h5ad")), "reference": folder / "reference.h5ad"}
    unbroken = label(tmp_path / "unbroken", group)
    loaded: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        load = Checkpoint.load

        def seen(self: Checkpoint) -> dict[str, Any] | None:
            found = load(self)
            loaded.append(-1 if found is None else found["epoch"])
            return found

        patch.setattr(Checkpoint, "load", seen)
        assert label(folder, group) == unbroken
    assert loaded == [epoch - 3]


@pytest.mark.slow
def test_saving_changes_no_number(group: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = label(tmp_path / "never", group)
    monkeypatch.setenv(checkpoints.INTERVAL_VARIABLE, "0")
    assert label(tmp_path / "always", group) == never
    assert len(list((tmp_path / "always" / "scratch").glob("*.ckpt"))) == 2
    assert not (tmp_path / "never" / "scratch").exists()


def test_a_fit_that_needs_more_than_is_granted_is_refused_before_it_begins(
    group: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histoloom.labels import cell2location

    begun: list[float | None] = []

    def fit(data: Any, task: Any, n_cells: float) -> None:
        begun.append(task.granted_mb)
        raise InterruptedError

    monkeypatch.setattr(cell2location, "fit", fit)
    need = deconvolution_mb(50, 120, 4, SPEC["posterior_samples"])
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, check=has_code("labels-memory"), match="50 spots x 120 genes"):
        run_labels(SPEC, tmp=tmp_path / "a", granted_mb=need + OVERHEAD_MB - 1, **group)
    assert not begun
    for granted in (need + OVERHEAD_MB + 1, None):
        with pytest.raises(InterruptedError):
            run_labels(SPEC, tmp=tmp_path / "a", granted_mb=granted, **group)
    assert len(begun) == 2
