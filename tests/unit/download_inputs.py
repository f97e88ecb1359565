"""What the tests of downloaders fetch, and how."""

from __future__ import annotations

import json
from pathlib import Path

from histoloom.sources.fetch import fetch_file

DATA = b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 1200


def entry(**columns: str) -> dict[str, str]:
    return {"file": "a.h5ad", "source": "src", "licence": "CC BY 4.0", "citation": "10.1/x", **columns}


def fetch(out: Path, **columns: str) -> None:
    fetch_file(entry=entry(**columns), mirror=None, out=out, tries=2, backoff_s=0.01)


def record(out: Path) -> dict[str, object]:
    return json.loads(out.with_name(out.name + ".json").read_text())


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())
