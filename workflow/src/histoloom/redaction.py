"""Messages without secrets: what a job logs goes through `Redacting`, whatever library says it."""

from __future__ import annotations

import logging
import os
import re
import sys
from urllib.parse import urlsplit

HIDDEN = "..."
_SECRET_WORDS = (
    r"[\w-]*(?:(?:api|access|secret|private|account)[_-]?key(?:[_-]?id)?|token|secret|password|passwd|credentials?)"
    r"|pwd|signature|sig|session[_-]?id|jsessionid|phpsessid|set-cookie|cookie"
)
_URL = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,9}://[^\s'\"<>]+")
_REST: tuple[tuple[re.Pattern[str], str], ...] = (
    # The rest of an address, as urllib3 tells it: a path with its query, or with parameters of a session.
    (re.compile(r"\?[\w.~%\[\]-]+=[^\s'\"<>)]+"), f"?{HIDDEN}"),
    (
        re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?)(?:(?:bearer|basic|token|digest)\s+)?[^\s'\",;]+"),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(rf"(?i)\b({_SECRET_WORDS})(['\"]?\s*[:=]\s*['\"]?)[^\s'\",;&)]+"), rf"\1\2{HIDDEN}"),
    (re.compile(r"\b(hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[bp]-)[A-Za-z0-9_-]{16,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), HIDDEN),
)
_SECRET_VARIABLES = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|API_?KEY|ACCESS_?KEY|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 6


def plain(url: str) -> str:
    """Return an address without user, query and path parameters, which may hold keys."""
    parts = urlsplit(url)
    if not parts.scheme:
        return url
    path = re.sub(r";[^/]*", "", parts.path)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path, query="").geturl()


def redact(text: str) -> str:
    """Return a text without the queries and users of addresses, keys by their names or forms, and this job's own."""
    for value in _own_secrets():
        text = text.replace(value, HIDDEN)
    text = _URL.sub(_address, text)
    for pattern, instead in _REST:
        text = pattern.sub(instead, text)
    return text


def _address(match: re.Match[str]) -> str:
    url = match[0]
    try:
        cut = plain(url)
    except ValueError:
        # No address that could be taken apart: nothing of it is kept.
        return HIDDEN
    # A fragment is a member of an archive, or what a login handed over.
    head, mark, fragment = cut.partition("#")
    return f"{head}{mark}{HIDDEN if '=' in fragment else fragment}" + (f"?{HIDDEN}" if "?" in url else "")


def _own_secrets() -> list[str]:
    """Return the values that a server could echo: secret variables of the environment, the hub's token."""
    values = [value for name, value in os.environ.items() if _SECRET_VARIABLES.search(name)]
    if "huggingface_hub" in sys.modules:
        from huggingface_hub import get_token

        values.append(get_token() or "")
    # The longest first: one may be part of another.
    return sorted({v for v in values if len(v) >= _SHORTEST_SECRET and not v.startswith("/")}, key=len, reverse=True)


class Redacting(logging.Formatter):
    """A formatter that redacts the whole record, traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
