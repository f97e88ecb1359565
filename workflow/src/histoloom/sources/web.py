"""Talking to publishers' servers: who we are, what is tried again and after how long, and what an error may say."""

from __future__ import annotations

import email.utils
import errno
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import histoloom
from histoloom.errors import InputError

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

USER_AGENT = f"histoloom/{histoloom.__version__} (research workflow; python-requests)"
TIMEOUT_S = (15, 60)
"""Seconds to connect, and between two bytes."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be gone at the next try; 401, 403, 404 and the like will not."""
MAX_REDIRECTS = 10
_MAX_BACKOFF_S = 60.0
_MAX_ASKED_PAUSE_S = 900.0
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})
_LONGEST_MESSAGE = 400
_Result = TypeVar("_Result")


class PassingFault(Exception):
    """A fault that another try may not meet.

    Parameters
    ----------
    message
        What happened.
    pause_s
        Seconds that the server asked us to wait.
    """

    def __init__(self, message: str, pause_s: float = 0.0) -> None:
        super().__init__(redact(message))
        self.pause_s = pause_s


class NoNetwork(InputError):
    """The host cannot be reached from this machine at all."""


class Web:
    """A session with a publisher's servers.

    Parameters
    ----------
    tries
        Attempts without progress before something is given up.
    backoff_s
        Pause after the first failed attempt, doubled each time, at most a minute; a server's Retry-After counts when
        it is longer, up to 15 minutes.
    """

    def __init__(self, tries: int = 6, backoff_s: float = 1.0) -> None:
        import requests

        self.tries, self.backoff_s = tries, backoff_s
        self.session = requests.Session()
        self.session.max_redirects = MAX_REDIRECTS
        self.answered = False
        self.session.hooks["response"].append(self._note_answer)
        # Any other coding of the content would make ranges and lengths mean something else.
        self.session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def _note_answer(self, answer: requests.Response, **_: object) -> None:
        self.answered = True

    def attempt(self, url: str, action: Callable[[], _Result], progress: Callable[[], int] = lambda: 0) -> _Result:
        """Do something until it succeeds, with growing pauses after passing faults.

        Parameters
        ----------
        url
            For messages.
        action
            Raises `PassingFault` or an error of requests for what another try may not meet.
        progress
            How far it got; a fault after progress starts the count of attempts anew.

        Raises
        ------
        InputError
            After `tries` attempts without progress, or at once where no other try can help.
        """
        from urllib3.exceptions import HTTPError

        failed, reached = 0, progress()
        while True:
            try:
                return action()
            except (PassingFault, OSError, HTTPError) as error:  # the errors of requests are OSErrors
                try:
                    fault = as_fault(error, url)
                except NoNetwork as gone:
                    # Once something has answered there is a network: it may come back.
                    if not self.answered:
                        raise
                    fault = PassingFault(gone.problem)
            failed = 0 if progress() > reached else failed
            reached, failed = progress(), failed + 1
            if failed >= self.tries:
                raise InputError(
                    plain(url),
                    f"not available after {failed} attempts; the last fault: {fault}.",
                    "run again later (what was downloaded is kept), or put the file into a folder and give that as "
                    "mirror_dir.",
                )
            pause = max(fault.pause_s, min(_MAX_BACKOFF_S, self.backoff_s * 2 ** (failed - 1)))
            logger.warning("%s: %s; next attempt in %.0f s", plain(url), fault, pause)
            time.sleep(pause)

    def get_json(self, url: str) -> Any:
        """Return the JSON that an API answers.

        Raises
        ------
        InputError
            If it refuses, or answers something else.
        """

        def ask() -> Any:
            with self.session.get(url, timeout=TIMEOUT_S) as answer:
                check_status(answer, url, "check the row in resources/files; the API may have changed.")
                try:
                    return answer.json()
                except ValueError:
                    raise PassingFault("the server sent something else than JSON") from None

        return self.attempt(url, ask)


def as_fault(error: Exception, url: str) -> PassingFault:
    """Return what may be tried again; raise what may not.

    Messages never carry the query of an address: signed links hold keys there.
    """
    import requests
    import urllib3

    if isinstance(error, PassingFault):
        return error
    if isinstance(error, InputError):
        raise error
    if isinstance(error, requests.TooManyRedirects):
        raise InputError(
            plain(url),
            f"the server sends us round in circles (more than {MAX_REDIRECTS} redirects).",
            "check the url in resources/files, or fetch the file by hand and give its folder as mirror_dir.",
        ) from None
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema):
        raise InputError(plain(url), "is no address.", "correct the url in resources/files.") from None
    if is_no_network(error):
        host = urlsplit(url).hostname or url
        raise NoNetwork(
            plain(url),
            f"this machine cannot reach {host}: it has no network, or no way to this host.",
            "copy the file into a folder and give that as mirror_dir.",
        ) from None
    if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError | TimeoutError | ConnectionError):
        return PassingFault(str(error))
    raise error


def is_no_network(error: BaseException) -> bool:
    """Whether a fault says that the host cannot be found or that no way leads to it (not that it is down)."""
    import requests
    import urllib3

    for cause in _causes(error):
        if isinstance(cause, socket.gaierror | urllib3.exceptions.NameResolutionError | requests.exceptions.ProxyError):
            return True
        if isinstance(cause, OSError) and cause.errno in _NO_ROUTE:
            return True
    return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what lies behind it, also where urllib3 hides it."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]


def check_status(answer: requests.Response, url: str, remedy: str, gate: str = "") -> None:
    """Turn a refusal into the right kind of error.

    Raises
    ------
    PassingFault
        408, 425, 429 and the server's own faults.
    InputError
        Everything else that is not 200 or 206; `gate` is the remedy of 401 and 403.
    """
    status = answer.status_code
    if status in (200, 206):
        return
    if status in PASSING:
        raise PassingFault(f"the server answered {status} {answer.reason}", asked_pause(answer.headers))
    if status in (401, 403) and gate:
        remedy = gate
    raise InputError(plain(url), f"the server answered {status} {answer.reason}.", remedy)


def asked_pause(headers: Any) -> float:
    """Return the seconds of a Retry-After header, given as a number or a date; 0 without one."""
    text = str(headers.get("Retry-After") or "").strip()
    if text.isdigit():
        return min(float(text), _MAX_ASKED_PAUSE_S)
    try:
        until = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max(0.0, (until - datetime.now(UTC)).total_seconds()), _MAX_ASKED_PAUSE_S)


def plain(url: str) -> str:
    """Return an address without the query and the user that may hold keys."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="").geturl() if parts.scheme else url


def redact(text: str) -> str:
    """Return a message without queries of addresses and without anything that looks like a token; shortened."""
    text = re.sub(r"\?[^\s'\"<>)]+", "?...", text)
    text = re.sub(r"(?i)\b(bearer|token|authorization)\b[:=\s]+\S+", r"\1 ...", text)
    text = re.sub(r"\bhf_[A-Za-z0-9]+", "hf_...", text)
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + " ..."
