"""A file of a repository on the Hugging Face hub; the hub states size and checksum.

The token comes from the environment (HF_TOKEN) or the hub's own login, the address from HF_ENDPOINT, both through the
hub's client. The revision is resolved to a commit, so that all bytes come from one version, and the commit is recorded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from histoloom.errors import InputError
from histoloom.sources.transfer import Download
from histoloom.sources.web import PASSING, NoNetwork, PassingFault, Web, asked_pause, is_no_network

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

_PREFIX = "hf://"
_SHOWN = 12
_Result = TypeVar("_Result")


def locate(entry: Mapping[str, str], web: Web) -> Download:
    """Return where the hub has a file.

    Parameters
    ----------
    entry
        url ``hf://datasets/<owner>/<name>`` (or without ``datasets/`` for a model), file: the path in the repository,
        revision: branch, tag or commit; empty: main.
    web
        The session.

    Raises
    ------
    InputError
        If the hub has no such repository, revision or file, asks for a token, or cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    repo, kind = repository(entry["url"])
    revision, file = entry.get("revision") or "main", entry["file"]
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)

    def ask(question: Callable[[], _Result]) -> _Result:
        return web.attempt(entry["url"], lambda: _asked(question, entry))

    expand: Any = ["sha"]  # without it the answer lists every file of the repository
    info = ask(lambda: api.repo_info(repo, repo_type=kind, revision=revision, expand=expand))
    commit = info.sha or revision
    found = [
        item
        for item in ask(lambda: api.get_paths_info(repo, [file], repo_type=kind, revision=commit))
        if isinstance(item, RepoFile) and item.path == file
    ]
    if not found:
        near = ask(lambda: sample_files(api, repo, kind, commit, file.rpartition("/")[2].partition(".")[0]))
        raise InputError(
            entry["url"],
            f"revision {revision} ({commit[:12]}) has no file '{file}'; of this sample it has: "
            f"{', '.join(near[:_SHOWN]) or 'nothing'}.",
            "correct the id or the revision, or exclude the sample in the sheet.",
        )
    file_info = found[0]
    checks = {"bytes": str(file_info.size)}
    if file_info.lfs is not None:
        checks["sha256"] = file_info.lfs.sha256
    else:
        checks["git_blob_sha1"] = file_info.blob_id
    logger.info("%s: revision %s of %s is commit %s", file, revision, repo, commit)
    return Download(
        hf_hub_url(repo, file, repo_type=kind, revision=commit, endpoint=api.endpoint),
        {**checks, **{key: entry[key] for key in ("sha256", "git_blob_sha1", "md5") if entry.get(key)}},
        headers={key: value for key, value in build_hf_headers().items() if key.lower() == "authorization"},
        version={"repository": repo, "revision": revision, "commit": commit},
        proof="the hub's checksum",
    )


def repository(url: str) -> tuple[str, str]:
    """Return name and type of ``hf://datasets/owner/name`` or ``hf://owner/name``."""
    name = url.removeprefix(_PREFIX).strip("/")
    kind = "dataset" if name.startswith("datasets/") else "model"
    name = name.removeprefix("datasets/")
    if not url.startswith(_PREFIX) or name.count("/") != 1:
        raise InputError(url, "is not hf://datasets/<owner>/<name> or hf://<owner>/<name>.", "correct the url.")
    return name, kind


def sample_files(api: HfApi, repo: str, kind: str, revision: str, sample: str) -> list[str]:
    """Return a sample's files; the pattern keeps TENX95 apart from TENX9."""
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    names = api.list_repo_files(repo, repo_type=kind, revision=revision)
    return sorted(filter_repo_objects(names, allow_patterns=[f"*{sample}[_.]**"]))


def _asked(question: Callable[[], _Result], entry: Mapping[str, str]) -> _Result:
    """Ask the hub; turn its client's errors into ours, without their texts where these might hold a header."""
    from huggingface_hub import errors

    url = entry["url"]
    try:
        return question()
    except errors.OfflineModeIsEnabled:
        raise NoNetwork(url, "HF_HUB_OFFLINE is set.", "unset it, or give a mirror_dir.") from None
    except errors.RevisionNotFoundError:
        raise InputError(url, f"has no revision '{entry.get('revision')}'.", "correct it in resources/files.") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in PASSING:
            raise PassingFault(f"the hub answered {status}", asked_pause(error.response.headers)) from None
        if status in (401, 403) or isinstance(error, errors.GatedRepoError):
            raise InputError(
                url, f"the hub answered {status}: {_token_state()}.", entry.get("gate") or "see the repository's page."
            ) from None
        raise InputError(
            url, f"the hub answered {status}.", "check repository and revision in resources/files."
        ) from None
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # of whichever library the client uses
        if is_no_network(error):
            host = os.environ.get("HF_ENDPOINT") or "huggingface.co"
            raise NoNetwork(url, f"this machine cannot reach {host}.", "give a mirror_dir.") from None
        raise PassingFault(f"the hub did not answer ({type(error).__name__})") from None


def _token_state() -> str:
    from huggingface_hub import get_token

    return "the token has no access" if get_token() else "there is no token (HF_TOKEN is empty and there is no login)"
