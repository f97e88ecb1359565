"""A file at an address of its own, with the checksum of the list."""

from __future__ import annotations

from collections.abc import Mapping

from histoloom.sources.registry import checks_of
from histoloom.sources.transfer import Download
from histoloom.sources.web import Web

NO_PROOF = "its first bytes only: no checksum is published"


def locate(entry: Mapping[str, str], web: Web) -> Download:
    """Return the row's address and checksum."""
    checksums = checks_of(entry)
    checks = {"bytes": entry.get("bytes", ""), **checksums}
    return Download(entry["url"], checks, proof="the published checksum" if checksums else NO_PROOF)
