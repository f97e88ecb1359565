"""Encoders that share a pass, in the real workflow: what runs, what is left alone, what a config may not ask for."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import TINY, run

pytestmark = pytest.mark.workflow

NET = {
    "kind": "timm",
    "arch": "vit_tiny_patch16_224",
    "arch_kwargs": {"img_size": 224, "num_classes": 0, "depth": 1},
    "default_weights": "random",
    "input_px": 224,
    "dim": 192,
}


def config(folder: Path, *encoders: str, **changes: Any) -> Path:
    """Write a config with encoders of one's own card, all of which a model takes."""
    raw = yaml.safe_load(TINY.read_text())
    raw["cohorts"] = {
        "tiny": raw["cohorts"]["tiny"] | {"sheet": str(TINY.parent / "tiny.tsv"), "samples": ["P1", "P2"]}
    }
    raw["cards"] = {"own": copy.deepcopy(NET)}
    own = {
        name: {"card": "own", "tiles": "um112", "sections_per_batch": 2, "seed": i} for i, name in enumerate(encoders)
    }
    raw["encoders"] |= own
    raw["models"] = {"ridge": {"kind": "ridge", "inputs": ["texture", *encoders]}}
    raw["experiments"] = {"tiny": raw["experiments"]["tiny"] | {"models": ["ridge"]}}
    raw["passes"] = {"all": {"encoders": ["texture", *encoders]}}
    path = folder / f"{'-'.join(encoders)}.yaml"
    path.write_text(yaml.safe_dump(raw | changes))
    return path


def files(*encoders: str) -> list[str]:
    """Return the embedding of each encoder, for the one batch there is."""
    return [f"results/embeddings/um112/{name}/tiny/{BATCH}.h5" for name in encoders]


BATCH = "b0-cd5da3b5"


def jobs(text: str) -> list[str]:
    return re.findall(r"^rule (\w+):", text, re.M)


def test_a_pass_gives_the_files_of_runs_alone_and_grows_by_one_encoder(tmp_path: Path) -> None:
    alone = config(tmp_path, "a", passes={})
    run(tmp_path, *files("a", "texture"), config=alone)
    wanted = {name: (tmp_path / name).read_bytes() for name in files("a", "texture")}
    for name in wanted:
        (tmp_path / name).unlink()

    joint = config(tmp_path, "a")
    result = run(tmp_path, *wanted, config=joint)
    assert {name: (tmp_path / name).read_bytes() for name in wanted} == wanted
    assert not list((tmp_path / "results/checkpoints").rglob("*.*"))
    assert "Nothing to be done" in (lambda r: r.stdout + r.stderr)(run(tmp_path, *wanted, config=joint))

    # One more encoder outside of the pass touches nothing.
    beside = config(tmp_path, "a", "b", passes={"all": {"encoders": ["texture", "a"]}})
    result = run(tmp_path, "-n", *wanted, *files("b"), config=beside)
    assert jobs(result.stdout) == ["embed_batch"]
    # In it, the finished ones are taken again and not embedded again.
    grown = config(tmp_path, "a", "b")
    run(tmp_path, *wanted, *files("b"), config=grown)
    assert {name: (tmp_path / name).read_bytes() for name in wanted} == wanted
    log = next((tmp_path / "logs/embeddings/embed_pass").rglob("*.log")).read_text()
    assert "a: finished" in log
    assert "texture: finished" in log
    assert "Nothing to be done" in (lambda r: r.stdout + r.stderr)(run(tmp_path, *wanted, config=grown))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"passes": {"x": {"encoders": ["texture", "z"]}}}, "'z' is not under encoders"),
        (
            {"passes": {"x": {"encoders": ["texture", "a"]}, "y": {"encoders": ["a", "texture"]}}},
            "is in pass 'x' already",
        ),
        ({"cards": {"own": NET | {"arhc": "x"}}}, "unknown key 'arhc'"),
        ({"cards": {"uni": NET}}, "resources/encoders.yaml has a card of that name"),
    ],
)
def test_passes_and_cards_that_cannot_be(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    result = run(tmp_path, "-n", config=config(tmp_path, "a", **changes), check=False)
    assert result.returncode != 0
    assert told in result.stdout + result.stderr
