"""A file at an address of its own, with the checksum of the list."""

from __future__ import annotations

from collections.abc import Mapping

from histoloom.sources.registry import CHECKSUMS
from histoloom.sources.transfer import Download
from histoloom.sources.verify import checksum_of
from histoloom.sources.web import Web

NO_PROOF = "its first bytes only: no checksum is published"


def locate(entry: Mapping[str, str], web: Web) -> Download:
    """Return the row's address and checksum."""
    checks = {key: entry[key] for key in ("bytes", *CHECKSUMS) if entry.get(key)}
    return Download(entry["url"], checks, proof="the published checksum" if checksum_of(checks) else NO_PROOF)
