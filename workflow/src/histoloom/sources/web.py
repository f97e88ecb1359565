"""Requests to publishers' servers: what is tried again, what a refusal means, and messages without secrets."""

from __future__ import annotations

import errno
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader, NameResolutionError, ProxyError

import histoloom
from histoloom.errors import InputError
from histoloom.redaction import plain, redact

USER_AGENT = f"histoloom/{histoloom.__version__} (research workflow; python-requests)"
TIMEOUT_S = (15, 60)
"""Seconds to connect, and between two bytes."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be gone at the next try; 401, 403, 404 and the like will not."""
MAX_REDIRECTS = 10
_MAX_BACKOFF_S = 60
_MAX_RETRY_AFTER_S = 900
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})
_LONGEST_MESSAGE = 400
_BY_HAND = "fetch the file by hand and give its folder as mirror_dir"


class NoRoute(OSError):
    """The host's name is unknown here, or no network leads to it."""


class _PatientRetry(Retry):
    """Retries of urllib3 that survive a Retry-After which is neither a number nor a date."""

    def parse_retry_after(self, retry_after: str) -> float:
        try:
            return super().parse_retry_after(retry_after)
        except InvalidHeader:
            return 0.0


class _FirstRetry(_PatientRetry):
    """Retries before any host has answered: without a network, there is nothing to wait for."""

    def increment(
        self, method: Any = None, url: Any = None, response: Any = None, error: Any = None, *rest: Any, **more: Any
    ) -> Any:
        cause = error.__cause__ if error is not None else None
        if isinstance(error, NameResolutionError | ProxyError) or (
            isinstance(cause, OSError) and cause.errno in _NO_ROUTE
        ):
            raise NoRoute(str(error)) from error
        return super().increment(method, url, response, error, *rest, **more)


class Web(requests.Session):
    """A session with publishers' servers.

    ``tries`` counts attempts at a request, and those without progress at a file. The first pause is ``backoff_s``,
    doubled each time, at most a minute; a server's Retry-After counts up to 15 minutes.
    """

    def __init__(self, tries: int = 6, backoff_s: float = 1.0) -> None:
        super().__init__()
        self.tries, self.backoff_s, self.max_redirects = tries, backoff_s, MAX_REDIRECTS
        # Any other coding of the content would make ranges and lengths mean something else.
        self.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        self._adapter = HTTPAdapter(max_retries=self._retries(_FirstRetry))
        self.mount("https://", self._adapter)
        self.mount("http://", self._adapter)
        self.hooks["response"].append(self._answered)

    def _retries(self, kind: type[Retry]) -> Retry:
        return kind(
            total=self.tries - 1,
            status_forcelist=PASSING,
            backoff_factor=self.backoff_s,
            backoff_max=_MAX_BACKOFF_S,
            retry_after_max=_MAX_RETRY_AFTER_S,
            raise_on_status=False,
        )

    def _answered(self, *_: object, **__: object) -> None:
        # There is a network: what is lost now may come back.
        self._adapter.max_retries = self._retries(_PatientRetry)

    def ask(self, url: str, *, remedy: str, gate: str = "", **options: Any) -> requests.Response:
        """Return the answer to a GET, tried again after faults that may pass; `gate` is the remedy after 401 or 403."""
        try:
            answer = self.get(url, timeout=TIMEOUT_S, **options)
        except requests.RequestException as error:
            raise request_error(error, url, self.tries) from None
        # 416: the file ends where the asked range begins.
        if answer.status_code not in (200, 206, 416):
            answer.close()
            raise refusal(answer, url, remedy, gate, self.tries)
        return answer

    def get_json(self, url: str) -> Any:
        with self.ask(url, remedy="check the row in resources/files; the API may have changed.") as answer:
            try:
                return answer.json()
            except ValueError:
                problem = "the server sent something else than JSON."
                raise InputError(plain(url), problem, "run again later.", "api-answer") from None


def refusal(answer: requests.Response, url: str, remedy: str, gate: str, tries: int) -> InputError:
    """Return the error for an answer that is no file."""
    text = f"{answer.status_code} {shortened(answer.reason or '')}".strip()
    if answer.status_code in PASSING:
        return given_up(url, f"the server answered {text}", tries)
    if answer.status_code in (401, 403) and gate:
        remedy = gate
    return InputError(plain(url), f"the server answered {text}.", remedy, "refused")


def given_up(url: str, fault: object, tries: int) -> InputError:
    """Return the error after the last try."""
    problem = f"not available after {tries} attempts; the last fault: {shortened(str(fault))}."
    remedy = "run again later (what was downloaded is kept), or put the file into a folder and give that as mirror_dir."
    return InputError(plain(url), problem, remedy, "host-fault")


def request_error(error: Exception, url: str, tries: int) -> InputError:
    """Return what a failed request means; never with the query of an address, where signed links hold keys."""
    if isinstance(error, requests.TooManyRedirects):
        problem = f"the server redirects in a loop (more than {MAX_REDIRECTS} redirects)."
        return InputError(plain(url), problem, f"check the url in resources/files, or {_BY_HAND}.", "redirects")
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema):
        return InputError(plain(url), "is no address.", "correct the url in resources/files.", "address")
    if any(isinstance(cause, NoRoute) for cause in error.args):
        host = urlsplit(url).hostname or url
        problem = f"this machine cannot reach {host}: it has no network, or no way to this host."
        return InputError(plain(url), problem, "copy the file into a folder and give that as mirror_dir.", "no-network")
    return given_up(url, error, tries)


def shortened(text: str) -> str:
    """Return what a server or a library said, without secrets, as long as a message can hold."""
    text = redact(text)
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + " ..."
