"""A cluster for the tests of this folder, and what a run on it needs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cluster
from slurm_runs import Site, run_locally


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slurm: starts a SLURM cluster of its own on this machine")
    config.addinivalue_line("markers", "slurm_long: run by `make test-slurm` only")
    # A shell's background jobs ignore Ctrl-C, and so would the runs that are to be interrupted.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("HISTOLOOM_SLURM") == "all":
        return
    for item in items:
        if item.get_closest_marker("slurm_long"):
            item.add_marker(pytest.mark.skip(reason="the long list of faults: `make test-slurm` runs it"))


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """A running cluster: nodes cpu1, cpu2 and gpu1. Each file of tests has one of its own, for one kind runs at a time."""
    reason = cluster.why_not()
    if reason:
        pytest.skip(f"no SLURM cluster can be started here: {reason}")
    with cluster.cluster():
        yield


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The light payload (nnls labels and their check), finished on this machine without SLURM."""
    folder = tmp_path_factory.mktemp("local")
    run_locally(folder, Site.LIGHT)
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole tiny cohort, finished on this machine without SLURM."""
    folder = tmp_path_factory.mktemp("whole")
    run_locally(folder)
    return folder


@pytest.fixture
def site(slurm: None, local: Path, tmp_path: Path) -> Iterator[Site]:
    """A folder whose sections are read already, so that only labels and their check are left for the cluster."""
    place = Site(tmp_path / "run")
    place.take_over(local)
    try:
        yield place
    finally:
        place.stop()
        for node in cluster.NODES:
            cluster.start_node(node)
