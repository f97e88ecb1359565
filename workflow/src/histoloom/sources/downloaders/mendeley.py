"""A file of a data set on Mendeley Data, found in the listing of its public API, which states size and sha256."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from histoloom.errors import InputError
from histoloom.sources.transfer import Download
from histoloom.sources.web import Web, plain


def locate(entry: Mapping[str, str], web: Web) -> Download:
    """Return where a listing has a file.

    The row's url is ``https://data.mendeley.com/public-api/datasets/<id>/files?folder_id=root&version=<n>``.
    """
    listing = web.get_json(entry["url"])
    if not isinstance(listing, list) or not all(isinstance(item, dict) for item in listing):
        message = listing.get("message") or listing.get("error") if isinstance(listing, dict) else ""
        raise InputError(
            plain(entry["url"]),
            f"the API sent something else than a list of files{f' ({message})' if message else ''}.",
            "try again later; if it stays, the API has changed: put the files into a folder and give it as mirror_dir.",
            "mendeley-listing",
        )
    files: dict[str, Any] = {str(item.get("filename")): item for item in listing}
    name = entry["file"].rpartition("/")[2]
    if name not in files:
        close = difflib.get_close_matches(name, files, n=1)
        problem = f"the listing of {len(files)} files has no '{name}'.{f' Did you mean {close[0]!r}?' if close else ''}"
        remedy = "take the names from the data set's metadata.csv."
        raise InputError(plain(entry["url"]), problem, remedy, "mendeley-file")
    item = files[name]
    details = item.get("content_details") or {}
    checks = {"bytes": details.get("size") or item.get("size"), "sha256": details.get("sha256_hash")}
    missing = [key for key, value in {**checks, "download_url": details.get("download_url")}.items() if not value]
    if missing:
        problem = f"the listing gives '{name}' no {', '.join(missing)}."
        raise InputError(plain(entry["url"]), problem, "the API has changed: give a mirror_dir.", "mendeley-listing")
    return Download(
        str(details["download_url"]),
        {key: str(value) for key, value in checks.items()},
        version={"file_id": str(item.get("id", "")), "listing": entry["url"]},
        proof="the sha256 of Mendeley's listing",
    )
