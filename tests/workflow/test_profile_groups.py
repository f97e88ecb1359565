"""Groups of the SLURM profile: no two of them wait for each other."""

from __future__ import annotations

import graphlib
import re
from pathlib import Path

import pytest
import yaml
from support import ROOT, run

pytestmark = pytest.mark.workflow
# What no run makes by itself, of the tiny cohort's experiments.
ASKED_FOR = (
    "results/bundles/tiny/mlp", "results/exports/tiny/P1.geojson", "results/exports/tiny/P1.zarr",
    "results/slides/tiny/mlp/tiny/P1.errors.geojson", "results/viewer/labels.nnls/tiny/P1.html",
)  # fmt: skip


def test_groups_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """`group-components` puts unconnected jobs of a group into one submission: a cycle of groups would never start."""
    groups = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())["groups"]
    waits_for: dict[str, set[str]] = {}
    seen = set()
    for config, targets in (
        (ROOT / "tests/workflow/tiny.yaml", ("all", *ASKED_FOR)),
        (ROOT / "config/config.yaml", ()),
    ):
        graph = run(tmp_path, *targets, "--rulegraph", config=config).stdout
        names = dict(re.findall(r"^\s*(\d+)\[label = \"(\w+)\"", graph, re.M))
        seen |= set(names.values())
        for first, then in re.findall(r"(\d+) -> (\d+)", graph):
            before, after = (groups.get(names[rule], names[rule]) for rule in (first, then))
            if before != after:
                waits_for.setdefault(after, set()).add(before)
    assert len(set(groups) & seen) > 25
    assert list(graphlib.TopologicalSorter(waits_for).static_order())[-1] == "all"
