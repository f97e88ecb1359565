"""Groups of encoders in the real workflow: what runs, what is left alone, what a config may not ask for."""

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
    raw["encoder_groups"] = {"all": {"encoders": ["texture", *encoders]}}
    path = folder / f"{'-'.join(encoders)}.yaml"
    path.write_text(yaml.safe_dump(raw | changes))
    return path


def files(*encoders: str) -> list[str]:
    """Return the embedding of each encoder, for the one batch there is."""
    return [f"results/embeddings/um112/{name}/tiny/{BATCH}.h5" for name in encoders]


BATCH = "b0-cd5da3b5"


def jobs(text: str) -> list[str]:
    return re.findall(r"^rule (\w+):", text, re.M)


def test_a_group_gives_the_files_of_runs_alone(tmp_path: Path) -> None:
    alone = config(tmp_path, "a", encoder_groups={})
    run(tmp_path, *files("a", "texture"), config=alone)
    wanted = {name: (tmp_path / name).read_bytes() for name in files("a", "texture")}
    for name in wanted:
        (tmp_path / name).unlink()

    group = config(tmp_path, "a")
    result = run(tmp_path, "-n", *wanted, config=group)
    assert jobs(result.stdout) == ["embed_group_all"]
    run(tmp_path, *wanted, config=group)
    assert {name: (tmp_path / name).read_bytes() for name in wanted} == wanted
    assert not list((tmp_path / "results/checkpoints").rglob("*.*"))
    assert {p.name for p in tmp_path.glob("results/efficiency/embeddings/um112/*/tiny/[!.]*")} == {f"{BATCH}.json"}
    assert "Nothing to be done" in (lambda r: r.stdout + r.stderr)(run(tmp_path, *wanted, config=group))

    # One more encoder outside of the group touches nothing; in it, the group's job runs for all.
    outside = config(tmp_path, "a", "b", encoder_groups={"all": {"encoders": ["texture", "a"]}})
    result = run(tmp_path, "-n", *wanted, *files("b"), config=outside)
    assert jobs(result.stdout) == ["embed_batch"]
    grown = config(tmp_path, "a", "b")
    result = run(tmp_path, "-n", *wanted, *files("b"), config=grown)
    assert jobs(result.stdout) == ["embed_group_all"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_groups": {"x": {"encoders": ["texture", "z"]}}}, "'z' is not under encoders"),
        (
            {"encoder_groups": {"x": {"encoders": ["texture", "a"]}, "y": {"encoders": ["a", "texture"]}}},
            "is in group 'x' already",
        ),
        ({"cards": {"own": NET | {"arhc": "x"}}}, "unknown key 'arhc'"),
        ({"cards": {"uni": NET}}, "resources/encoders.yaml has a card of that name"),
    ],
)
def test_groups_and_cards_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    result = run(tmp_path, "-n", config=config(tmp_path, "a", **changes), check=False)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr
