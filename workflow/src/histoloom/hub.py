"""The Hugging Face hub: pinned revisions, where a file is, and errors that say what to do. One client for all rooms."""

from __future__ import annotations

import os
import re
from pathlib import Path

from histoloom.errors import InputError

TOKEN_VARIABLE = "HF_TOKEN"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_host() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, which never changes, and not a branch or a tag."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def commit_of(path: Path) -> str | None:
    """Return the commit of a file in the hub's cache, which keeps files as ``snapshots/<commit>/<file>``."""
    commit = dict(zip(path.parts, path.parts[1:], strict=False)).get("snapshots")
    return commit if is_commit(commit) else None


def token_state() -> str:
    from huggingface_hub import get_token

    if os.environ.get(TOKEN_VARIABLE):
        return f"{TOKEN_VARIABLE} is set but has no access"
    if get_token():
        return "the token has no access"
    return f"there is no token: {TOKEN_VARIABLE} is empty and there is no login to the hub"


def hub_error(error: Exception, where: str, *, access: str, instead: str) -> InputError:
    """Turn what the hub's client raises into an error that a person can act on.

    The client's own text is left out: it may hold a request's headers. ``access`` is the remedy where the hub refuses,
    ``instead`` the end of every other one.
    """
    from huggingface_hub import errors

    status = _status(error) or _status(error.__cause__)
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(where, "the hub has no such revision.", f"fix the revision, {instead}.", "hub-revision")
    if isinstance(error, errors.RemoteEntryNotFoundError | errors.HFValidationError):
        return InputError(where, "the hub has no such file.", f"fix the file's name, {instead}.", "hub-file")
    if isinstance(error, errors.RepositoryNotFoundError) or status in {401, 403}:
        return InputError(where, f"the hub refused it ({status}); {token_state()}.", access, "hub-access")
    if os.environ.get("HF_HUB_OFFLINE", "") not in {"", "0"}:
        remedy = f"run once online on a machine that shares HF_HOME, {instead}."
        return InputError(where, "is not in the cache, and HF_HUB_OFFLINE is set.", remedy, "hub-offline")
    if status:
        return InputError(where, f"the hub answered {status}.", f"try again later, {instead}.", "hub-answer")
    problem = f"the hub is out of reach: this machine cannot reach {hub_host()} ({type(error).__name__})."
    return InputError(where, problem, f"check the network, {instead}.", "no-network")


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
