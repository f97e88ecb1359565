"""Checkpoints: what is on disk after a kill, what is used again and what never, signals, and fits that go on."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelworld import model_spec
from test_models_mlp import Data, fit, make_data

from histoloom import checkpoints
from histoloom.checkpoints import EXIT_STATUS, Checkpoint, Checkpoints, Stopped, resume_identity
from histoloom.jobs import job

ROOT = Path(__file__).resolve().parents[2]
STATE = {"weights": torch.arange(6.0), "step": 4, "names": ["a", "b"], "none": None}


def same(found: dict[str, Any] | None, weights: torch.Tensor = STATE["weights"]) -> bool:
    return found is not None and torch.equal(found["weights"], weights) and found["step"] == 4


def saved(folder: Path, *weights: torch.Tensor, identity: str = "x") -> Checkpoint:
    checkpoint = Checkpoint(folder, "fit", identity)
    for value in weights or (STATE["weights"],):
        assert checkpoint.save(STATE | {"weights": value}, "step 4")
    return checkpoint


# the file ------------------------------------------------------------------------------------------------------------


def test_what_was_saved_comes_back_and_two_generations_are_kept(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "new", torch.zeros(6), torch.ones(6), STATE["weights"])
    assert same(Checkpoint(tmp_path / "new", "fit", "x").load())
    assert {p.name for p in (tmp_path / "new").iterdir()} == {checkpoint.path.name, checkpoint.previous.name}
    assert Checkpoint(tmp_path / "nowhere", "fit", "x").load() is None


def test_another_identity_is_never_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = saved(tmp_path)
    with caplog.at_level(logging.INFO):
        other = Checkpoint(tmp_path, "fit", "y")
        assert other.load() is None
        assert Checkpoint(tmp_path, "fit", "x", facts=[1]).load() is None
        # Not even under the right name.
        mine.path.rename(other.path)
        assert other.load() is None
    assert sum("of other parameters, inputs or code: not used" in r.message for r in caplog.records) == 3


def test_the_identity_is_of_inputs_code_device_and_threads() -> None:
    def of(artefact: str = "a", sources: tuple[str, ...] = ("models",), device: str = "cpu", threads: int = 1) -> str:
        return resume_identity(artefact, sources, device=device, threads=threads)

    others = {of("b"), of(sources=("labels",)), of(device="cuda"), of(threads=2)}
    assert of() == of()
    assert len(others | {of()}) == 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "source_hash", lambda name: f"changed {name}")
        assert of() not in others


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = saved(tmp_path, STATE["weights"], torch.ones(6))

    def harm(path: Path) -> None:
        whole = path.read_bytes()
        middle = len(whole) * 2 // 3
        path.write_bytes(
            {
                "cut": whole[:middle],
                "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
                "empty": b"",
                "text": b"not a checkpoint\n",
            }[damage]
        )

    harm(checkpoint.path)
    assert same(Checkpoint(tmp_path, "fit", "x").load())
    assert "is damaged" in caplog.text
    harm(checkpoint.previous)
    assert Checkpoint(tmp_path, "fit", "x").load() is None


def test_a_kill_between_the_renames_or_during_a_write_costs_one_generation(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, STATE["weights"], torch.ones(6))
    checkpoint.path.unlink()
    half = tmp_path / f".{checkpoint.path.stem}.77.part"
    half.write_bytes(b"half")
    assert same(Checkpoint(tmp_path, "fit", "x").load())
    assert not half.exists()


def test_a_full_disk_ends_no_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(checkpoints.INTERVAL_VARIABLE, "0")
    checkpoint = saved(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with checkpoint:
        checkpoint.tick(lambda: STATE | {"weights": torch.ones(6)}, "step 5")
        assert "No space left on device" in caplog.text
        assert not list(tmp_path.glob(".*.part"))
        assert same(Checkpoint(tmp_path, "fit", "x").load())
        # Asked to end, it ends, and does not say that it has saved.
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Stopped, match="could not be saved"):
            checkpoint.tick(lambda: STATE, "step 6")


def test_a_short_fit_never_writes(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "c", "fit", "x") as checkpoint:
        for _ in range(1000):
            checkpoint.tick(lambda: pytest.fail("the state was asked for"), "")
    assert not (tmp_path / "c").exists()


# signals and the job -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_saves_at_the_next_step_and_ends_the_job(number: signal.Signals, tmp_path: Path) -> None:
    before, scratch = signal.getsignal(number), tmp_path / "scratch"
    with (
        pytest.raises(SystemExit) as end,
        job(tmp_path / "log", {"out": tmp_path / "out.txt"}, scratch=scratch) as out,
        Checkpoint(scratch, "fit", "x") as checkpoint,
    ):
        out["out"].write_text("half")
        checkpoint.tick(lambda: pytest.fail("nobody asked"), "step 3")
        os.kill(os.getpid(), number)
        checkpoint.tick(lambda: STATE, "step 4")
    assert end.value.code == EXIT_STATUS == os.EX_TEMPFAIL
    assert f"asked to end by {number.name}: saved at step 4" in (tmp_path / "log").read_text()
    assert same(Checkpoint(scratch, "fit", "x").load())
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == []
    assert signal.getsignal(number) == before


def test_a_job_that_succeeds_leaves_no_checkpoint_and_one_that_fails_does(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with pytest.raises(SystemExit), job(tmp_path / "log", {}, scratch=scratch):
        saved(scratch)
        raise ZeroDivisionError
    assert same(Checkpoint(scratch, "fit", "x").load())
    with job(tmp_path / "log", {"out": tmp_path / "out.txt"}, scratch=scratch) as out:
        out["out"].write_text("whole")
    assert not scratch.exists()


def test_random_generators_go_on_where_they_were() -> None:
    def draw() -> tuple[float, ...]:
        return random.gauss(0, 1), float(np.random.normal()), float(torch.rand(1))  # noqa: NPY002

    draw()  # an odd number of normals: a second one waits in the generator
    state = checkpoints.random_state()
    first = draw()
    draw()
    checkpoints.set_random_state(state)
    assert draw() == first


# a fit ---------------------------------------------------------------------------------------------------------------


def world(selection: str) -> Data:
    return make_data(n_patients=4, selection=selection, val=selection == "val_patient")


def fitted(data: Data, folder: Path | None) -> dict[tuple[str, int], Any]:
    spec = {"hidden_layers": 2, "width": 12, "epochs": 6, "batch_size": 16, "lr": 1e-2, "dropout": 0.2}
    return fit(data, model_spec("mlp", **spec), None if folder is None else Checkpoints(folder, "job"))


def content(models: dict[tuple[str, int], Any]) -> dict[str, bytes]:
    """Every number of the models, bit by bit, and what was chosen."""
    arrays = {f"{key}/{name}": a.tobytes() for key, m in models.items() for name, a in m.state().items()}
    return arrays | {f"{key}": repr(m.choices).encode() for key, m in models.items()}


class Crash(Exception):
    """Stands for a kill: nothing of the fit but its files outlives it."""


def crash_after(monkeypatch: pytest.MonkeyPatch, save: int, more: int) -> None:
    """Save at one tick, and crash some ticks later, so that work is lost and done again."""
    count = 0
    tick = Checkpoint.tick

    def counted(self: Checkpoint, *arguments: Any) -> None:
        nonlocal count
        count += 1
        self._next = 0.0 if count == save else float("inf")
        tick(self, *arguments)
        if count == save + more:
            raise Crash

    monkeypatch.setattr(Checkpoint, "tick", counted)


@pytest.mark.parametrize("selection", ["fixed", "val_patient", "inner_cv"])
def test_an_mlp_goes_on_from_any_step_to_the_same_bits(selection: str, tmp_path: Path) -> None:
    """Members leave the stack at different steps; one job trains up to three stacks."""
    torch.set_num_threads(1)
    data, rng = world(selection), random.Random(selection)
    unbroken = fitted(data, None)
    ticks = 0
    with pytest.MonkeyPatch.context() as patch:

        def count(self: Checkpoint, *_: Any) -> None:
            nonlocal ticks
            ticks += 1

        patch.setattr(Checkpoint, "tick", count)
        fitted(data, tmp_path / "counting")
    assert ticks > 40
    for save in [1, ticks - 3, *rng.sample(range(2, ticks - 3), 3)]:
        folder = tmp_path / str(save)
        with pytest.MonkeyPatch.context() as patch:
            crash_after(patch, save, more=3)
            with pytest.raises(Crash):
                fitted(data, folder)
        assert list(folder.glob("*.ckpt"))
        assert content(fitted(data, folder)) == content(unbroken)


def test_a_stack_of_other_members_is_not_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = world("fixed")
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, 5, more=1)
        with pytest.raises(Crash):
            fitted(data, tmp_path)
    fewer = replace(data, folds=data.folds[:2])
    with caplog.at_level(logging.INFO):
        other = fitted(fewer, tmp_path)
    assert content(other) == content(fitted(fewer, None))
    assert "not used" in caplog.text


KILLED = """
import sys, os
sys.path[:0] = {paths}
from pathlib import Path
import torch
torch.set_num_threads(1)
from histoloom.checkpoints import Checkpoint
from histoloom.jobs import job
import test_checkpoints as t

tick, count = Checkpoint.tick, 0
def counted(self, *arguments):
    global count
    count += 1
    if count == {step}:
        os.kill(os.getpid(), {number})
    tick(self, *arguments)
Checkpoint.tick = counted
folder = Path({folder})
with job(folder / "log", {{"out": folder / "out.pt"}}, scratch=folder / "scratch") as out:
    t.fitted(t.world("fixed"), folder / "scratch")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, EXIT_STATUS)])
def test_a_process_killed_at_a_random_step_loses_nothing(number: signal.Signals, status: int, tmp_path: Path) -> None:
    """A real process, really killed; saved as often as can be, and fsync'ed, so that what is on disk is what counts."""
    code = KILLED.format(
        paths=[str(ROOT / "tests" / "unit"), str(ROOT / "tests"), str(ROOT / "workflow" / "src")],
        step=random.Random(int(number)).randrange(5, 60),
        number=int(number),
        folder=repr(str(tmp_path)),
    )
    environment = os.environ | {checkpoints.INTERVAL_VARIABLE: "0", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    assert not (tmp_path / "out.pt").exists()
    assert ("asked to end by SIGTERM" in (tmp_path / "log").read_text()) == (number == signal.SIGTERM)
    torch.set_num_threads(1)
    unbroken = fitted(world("fixed"), None)
    with pytest.MonkeyPatch.context() as patch:
        first: list[str] = []
        load = Checkpoint.load

        def seen(self: Checkpoint) -> dict[str, Any] | None:
            found = load(self)
            first.append("none" if found is None else f"step {found['step']}")
            return found

        patch.setattr(Checkpoint, "load", seen)
        again = fitted(world("fixed"), tmp_path / "scratch")
    assert first[0].startswith("step")
    assert content(again) == content(unbroken)
