"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real sections (her2st/...); the test is skipped where there is none."""
    folder = Path(os.environ.get("HISTOLOOM_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "her2st").is_dir():
        pytest.skip(
            f"no real data at {folder}: set HISTOLOOM_REAL_DATA to a folder that holds her2st/ in its original layout"
        )
    return folder
