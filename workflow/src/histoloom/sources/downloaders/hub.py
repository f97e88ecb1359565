"""A file of a Hugging Face repository, with the hub's own checksum and the commit that the revision is now."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from histoloom.errors import InputError
from histoloom.hub import hub_error, hub_host
from histoloom.sources.registry import checks_of
from histoloom.sources.transfer import Download
from histoloom.sources.web import Web

logger = logging.getLogger(__name__)

_PREFIX = "hf://"
_SHOWN = 12


def locate(entry: Mapping[str, str], web: Web) -> Download:
    """Return where ``hf://[datasets/]<owner>/<name>`` has a file; its bytes come as from any host, to be resumed."""
    from huggingface_hub import errors, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    repo, kind = repository(entry["url"])
    revision, file = entry.get("revision") or "main", entry["file"]
    try:
        try:
            metadata = _metadata(hf_hub_url(repo, file, repo_type=kind, revision=revision, endpoint=hub_host()))
        except errors.RemoteEntryNotFoundError:
            raise _no_file(entry, repo, kind, revision) from None
    except (errors.HfHubHTTPError, errors.HTTPError, errors.OfflineModeIsEnabled, OSError) as error:  # type: ignore[attr-defined]
        access = entry.get("gate") or "see the repository's page."
        raise hub_error(error, f"{entry['url']}@{revision}", access=access, instead="or give a mirror_dir") from None
    etag, commit = metadata.etag or "", metadata.commit_hash or revision
    logger.info("%s: revision %s of %s is commit %s", file, revision, repo, commit)
    return Download(
        hf_hub_url(repo, file, repo_type=kind, revision=commit, endpoint=hub_host()),
        # The hub's tag of a large file is its sha256, of a small one git's name of its content.
        {"bytes": str(metadata.size or ""), "sha256" if len(etag) == 64 else "git_blob_sha1": etag, **checks_of(entry)},
        headers={key: value for key, value in build_hf_headers().items() if key.lower() == "authorization"},
        version={"repository": repo, "revision": revision, "commit": commit},
        proof="the hub's checksum",
    )


def _metadata(url: str) -> Any:
    """Ask the hub for size, checksum and commit; once more, patiently, where it is only busy."""
    from huggingface_hub import errors, get_hf_file_metadata

    try:
        return get_hf_file_metadata(url)
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (429, *range(500, 600)):
            raise
    return get_hf_file_metadata(url, retry_on_errors=True)


def repository(url: str) -> tuple[str, str]:
    """Return name and type of ``hf://datasets/owner/name`` or ``hf://owner/name``."""
    name = url.removeprefix(_PREFIX).strip("/")
    kind = "dataset" if name.startswith("datasets/") else "model"
    name = name.removeprefix("datasets/")
    if not url.startswith(_PREFIX) or name.count("/") != 1:
        problem = "is not hf://datasets/<owner>/<name> or hf://<owner>/<name>."
        raise InputError(url, problem, "correct the url.", "hub-url")
    return name, kind


def _no_file(entry: Mapping[str, str], repo: str, kind: str, revision: str) -> InputError:
    """Name the files of the same sample; the pattern keeps TENX95 apart from TENX9."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    sample = entry["file"].rpartition("/")[2].partition(".")[0]
    names = HfApi(endpoint=hub_host()).list_repo_files(repo, repo_type=kind, revision=revision)
    near = sorted(filter_repo_objects(names, allow_patterns=[f"*{sample}[_.]**"]))
    held = ", ".join(near[:_SHOWN]) or "nothing"
    problem = f"revision {revision} has no file '{entry['file']}'; of this sample it has: {held}."
    return InputError(entry["url"], problem, "correct the id or the revision, or exclude the sample.", "hub-file")
