"""An h5ad of CELLxGENE, found through the curation API: a data set's newest version, or the one that the list pins.

The address of a file changes with each version, so that the API must be asked. It states a size and no checksum; the
version and its date are recorded next to the file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from histoloom.errors import InputError
from histoloom.sources.registry import checks_of
from histoloom.sources.transfer import Download
from histoloom.sources.web import Web, plain

logger = logging.getLogger(__name__)

_API = "/curation/v1/"


def locate(entry: Mapping[str, str], web: Web) -> Download:
    """Return where a data set's h5ad is.

    The row's url is ``<host>/curation/v1/collections/<collection>/datasets/<dataset>``; its revision a
    dataset_version_id, or empty for the newest.
    """
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
