"""Hosts that give a file an address of its own, or list it in a public API: Mendeley Data and CELLxGENE.

The address of a CELLxGENE file changes with each version, so that its API must be asked. It states a size and no
checksum; the version and its date are recorded next to the file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from histoloom.errors import InputError
from histoloom.redaction import plain
from histoloom.schemas import nearest
from histoloom.sources.registry import checks_of
from histoloom.sources.transfer import Download
from histoloom.sources.web import Web

logger = logging.getLogger(__name__)

_API = "/curation/v1/"


def http(entry: Mapping[str, str], web: Web) -> Download:
    """Return the row's address and checksum."""
    checks = checks_of(entry)
    proof = "the published checksum" if checks else "its first bytes only: no checksum is published"
    return Download(entry["url"], {"bytes": entry.get("bytes", ""), **checks}, proof=proof)


def mendeley(entry: Mapping[str, str], web: Web) -> Download:
    """Return where the listing ``.../public-api/datasets/<id>/files?folder_id=root&version=<n>`` has a file."""
    listing = web.get_json(entry["url"])
    if not isinstance(listing, list) or not all(isinstance(item, dict) for item in listing):
        message = listing.get("message") or listing.get("error") if isinstance(listing, dict) else ""
        problem = f"the API sent something else than a list of files{f' ({message})' if message else ''}."
        remedy = "try again later; if it stays, the API has changed: give the files' folder as mirror_dir."
        raise InputError(plain(entry["url"]), problem, remedy, "mendeley-listing")
    files: dict[str, Any] = {str(item.get("filename")): item for item in listing}
    name = entry["file"].rpartition("/")[2]
    if name not in files:
        problem = f"the listing of {len(files)} files has no '{name}'.{nearest(name, files)}"
        remedy = "take the names from the data set's metadata.csv."
        raise InputError(plain(entry["url"]), problem, remedy, "mendeley-file")
    item = files[name]
    details = item.get("content_details") or {}
    url = details.get("download_url")
    checks = {"bytes": details.get("size") or item.get("size"), "sha256": details.get("sha256_hash")}
    missing = [key for key, value in {**checks, "download_url": url}.items() if not value]
    if missing:
        problem = f"the listing gives '{name}' no {', '.join(missing)}."
        raise InputError(plain(entry["url"]), problem, "the API has changed: give a mirror_dir.", "mendeley-listing")
    return Download(
        str(url),
        {key: str(value) for key, value in checks.items()},
        version={"file_id": str(item.get("id", "")), "listing": entry["url"]},
        proof="the sha256 of Mendeley's listing",
    )


def cellxgene(entry: Mapping[str, str], web: Web) -> Download:
    """Return where ``<host>/curation/v1/collections/<id>/datasets/<id>`` has its h5ad, the newest or the revision."""
    url, pinned = entry["url"], entry.get("revision", "")
    if pinned:
        url = f"{url.partition(_API)[0]}{_API}dataset_versions/{pinned}"
    answer = web.get_json(url)
    assets = answer.get("assets") if isinstance(answer, dict) else None
    files = [a for a in assets or [] if a.get("filetype") == "H5AD" and a.get("url")]
    version = str(answer.get("dataset_version_id") or "") if isinstance(answer, dict) else ""
    if len(files) != 1 or not version:
        problem = "the API lists no single h5ad with a version for this data set."
        raise InputError(plain(url), problem, "check it at cellxgene.cziscience.com.", "cellxgene-file")
    if pinned and version != pinned:
        remedy = f"correct revision {pinned} in resources/files."
        raise InputError(plain(url), f"the API answers with version {version}.", remedy, "cellxgene-version")
    date = str(answer.get("revised_at") or answer.get("published_at") or "no date")
    logger.info("%s: version %s of %s", entry["file"], version, date)
    return Download(
        str(files[0]["url"]),
        {"bytes": str(files[0].get("filesize") or ""), **checks_of(entry)},
        version={"dataset_version_id": version, "dated": date, "title": str(answer.get("title") or "")},
        proof="the size that the API states",
    )
