"""Several fits in one job: the same labels as alone, finished ones are not made again, and how the plan cuts jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from histoloom import kinds
from histoloom.labels import LabelTask, label_group, label_groups
from histoloom.plan import Plan
from label_inputs import label_spec, metadata, signatures, true_cells, write_reference, write_section

DEMO = Path(__file__).resolve().parents[2] / "config" / "config.yaml"
FIT = {"method": "cell2location", "reference": "r", "max_epochs": 12, "lr": 0.02, "posterior_samples": 10}


def tasks(folder: Path, spec: dict[str, Any], fits: list[tuple[str, int]]) -> list[LabelTask]:
    table, made = signatures(), []
    reference = folder / "reference.h5ad"
    write_reference(reference, table)
    for number, group in enumerate(sorted({group for group, _ in fits})):
        counts = np.random.default_rng(number).poisson(true_cells(20, 4, number) @ table.to_numpy().T * 0.3)
        write_section(folder / f"{group}.h5ad", counts, table.index, sample=group)
    for group, seed in fits:
        scratch = folder / "scratch"
        made.append(LabelTask(label_spec(spec), "c", group, seed, [folder / f"{group}.h5ad"], scratch, reference))
    return made


def content(path: Path) -> dict[str, bytes]:
    with h5py.File(path) as handle:
        names: list[str] = []
        handle.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        return {name: np.asarray(handle[name][()]).tobytes() for name in names if handle[name].dtype.kind != "O"}


@pytest.mark.slow
def test_fits_that_share_a_job_equal_fits_of_their_own(tmp_path: Path) -> None:
    """No fit leaves anything to the next: neither pyro's parameters nor random numbers."""
    fits = [("A", 0), ("A", 3), ("B", 0)]
    (tmp_path / "alone").mkdir()
    alone = {}
    for task in reversed(tasks(tmp_path / "alone", FIT, fits)):
        path = tmp_path / f"{task.group}.{task.seed}.h5ad"
        label_group(task, path)
        alone[path.name] = content(path)
    (tmp_path / "shared").mkdir()
    out = tmp_path / "out"
    label_groups(tasks(tmp_path / "shared", FIT, fits), out, tmp_path / "e.json")
    assert sorted(p.name for p in out.iterdir()) == sorted(alone)
    for name, values in alone.items():
        assert content(out / name) == values, name
    assert alone["A.0.h5ad"] != alone["A.3.h5ad"]


def test_a_killed_job_makes_only_the_fits_that_it_had_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"method": "nnls", "reference": "r"}
    method, fitted = kinds.load("labels", "nnls"), []
    broken = True

    def fit(task: LabelTask) -> Any:
        fitted.append(task.group)
        if broken and task.group == "C":
            raise KeyboardInterrupt
        return method(task)

    monkeypatch.setattr(kinds, "load", lambda *_: fit)
    job = tasks(tmp_path, spec, [("A", 0), ("B", 0), ("C", 0)])
    with pytest.raises(KeyboardInterrupt):
        label_groups(job, tmp_path / "out", tmp_path / "e.json")
    assert not (tmp_path / "out").exists()
    broken = False
    # Section B has changed since: its finished labels are of another input.
    counts = np.full((9, 120), 3)
    write_section(tmp_path / "B.h5ad", counts, signatures().index, sample="B")
    label_groups(
        [LabelTask(t.spec, "c", t.group, 0, t.samples, t.scratch, t.reference) for t in job],
        tmp_path / "out",
        tmp_path / "e.json",
    )
    assert fitted == ["A", "B", "C", "B", "C"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"A.0.h5ad", "B.0.h5ad", "C.0.h5ad"}
    assert metadata(tmp_path / "out" / "B.0.h5ad")["identity"] != metadata(tmp_path / "out" / "A.0.h5ad")["identity"]
    assert json.loads((tmp_path / "e.json").read_text())["items"] == 9 + 20


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"max_epochs": 200}, {"part0": 8}),
        ({"max_epochs": 200, "fits_per_job": 3}, {"part0": 3, "part1": 3, "part2": 2}),
        ({"max_epochs": 200, "demo_below_epochs": 200}, dict.fromkeys(["W.0", "W.1", "X.0", "X.1", "Y.0", "Y.1", "Z.0", "Z.1"], 1)),
        ({"max_epochs": 30000, "fits_per_job": 2}, {"part0": 2, "part1": 2, "part2": 2, "part3": 2}),
    ],
)  # fmt: skip
def test_short_fits_share_a_job_and_long_ones_have_their_own(settings: dict[str, int], parts: dict[str, int]) -> None:
    raw = yaml.safe_load(DEMO.read_text())
    raw["labels"]["c2l"].pop("fits_per_job", None)
    raw["labels"]["c2l"] |= settings
    plan = Plan.from_raw(raw, [str(DEMO)])
    assert {part: len(fits) for part, fits in plan.labels.jobs("c2l", "demo").items()} == parts
    assert plan.labels.part_files("c2l", "demo") == [f"results/labels/c2l/demo/{part}" for part in parts]
    # How fits are dealt to jobs decides no result, so it is in no spec.
    assert "fits_per_job" not in plan.labels.spec("c2l")
    fits = [fit[:2] for part in parts for fit in plan.labels.fits("c2l", "demo", part)]
    assert fits == [(group, seed) for group in "WXYZ" for seed in (0, 1)]
    first = next(iter(parts))
    read = plan.labels.job_inputs("c2l", "demo", first)
    members = [s for _, _, sections in plan.labels.fits("c2l", "demo", first) for s in sections]
    assert [Path(p).stem for p in read["samples"]] == list(dict.fromkeys(members))
