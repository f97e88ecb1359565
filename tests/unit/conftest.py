"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from loopback import Site, running_site


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with running_site() as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One laid experiment for all tests that only read it."""
    from modelbench import lay
    from modelworld import World

    folder = tmp_path_factory.mktemp("shared")
    world = World(folder)
    return world, lay(world, folder / "e")


@pytest.fixture
def world(shared):
    return shared[0]


@pytest.fixture
def bench(shared, tmp_path):
    """The shared experiment, with an empty folder for what the test writes."""
    return SimpleNamespace(**{**vars(shared[1]), "folder": tmp_path})
