"""HTTP GET for green slots: bounded in time, size and redirects, with keep-alive.

Two ways to hold connections, chosen with ``--http``:

``shared`` (default)
    One :class:`urllib3.PoolManager` for the process. It is documented as thread-safe, so greenlets
    may share it; connections stay alive over tasks on *every* pool, stock ones included, which
    keeps a comparison of pools fair. One request costs 0.35 ms of CPU; requests takes 0.6 ms.

``per-slot``
    One :class:`requests.Session` in a ``threading.local``: what most code bases have, because a
    Session is not promised to be thread-safe. On a pool with long-lived slots the Session serves
    task after task, and saves a connection whenever the slot meets a site again. Stock green pools
    start a greenlet per task, so there the "thread-local" lives for one task and every task opens
    a connection (0.8 ms).

httpx was measured too: a shared ``httpx.Client`` costs about 2 ms of CPU per request, and on a
green pool CPU is what one process runs out of. (gevent 26.9, Python 3.11, 50 greenlets, local web.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urljoin

import requests
import urllib3
from requests.adapters import HTTPAdapter

USER_AGENT = "celery-hybrid-example-feed-crawler/1.0"
MAX_BODY = 5 * 2**20
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
TRANSIENT = frozenset({429, 500, 502, 503, 504})


class FetchError(Exception):
    """The URL cannot be fetched, and asking again would not help."""


class TransientError(Exception):
    """The URL could not be fetched this time: a time-out, a lost connection, an HTTP 5xx.

    Attributes:
        retry_after: Seconds the server asked to be left alone, or 0.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Response:
    """What a URL answered in the end.

    Attributes:
        url: Where the answer came from, after redirects.
        status: HTTP status; never a redirect and never a transient one.
        headers: With names in lower case.
        body: Decoded from any content encoding.
        redirects: How many were followed.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    redirects: int = 0


class Fetcher(Protocol):
    """One GET, without following redirects."""

    def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """Fetch ``url``.

        Raises:
            TransientError: A time-out or a lost connection.
            FetchError: The URL makes no sense, or the body is larger than ``MAX_BODY``.
        """


class SharedFetcher:
    """All slots of the process share one urllib3 pool."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # A pool per site, the least recently used of them dropped. `block=False`: a slot opens
        # a connection rather than wait for one, since politeness already bounds the number.
        self._pool = urllib3.PoolManager(
            num_pools=1000, maxsize=32, block=False, headers={"user-agent": USER_AGENT}
        )

    def get(self, url: str, headers: Mapping[str, str]) -> Response:
        deadline = time.monotonic() + self._timeout
        try:
            response = self._pool.request(
                "GET",
                url,
                headers={"user-agent": USER_AGENT, "accept-encoding": "gzip", **headers},
                timeout=urllib3.Timeout(total=self._timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            return receive(url, response, deadline)
        except (urllib3.exceptions.LocationValueError, UnicodeError) as error:
            raise FetchError(f"{url}: {error}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"{url}: {error}") from error


class SlotFetcher:
    """Every slot has its own :class:`requests.Session`."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._slot = threading.local()

    def get(self, url: str, headers: Mapping[str, str]) -> Response:
        deadline = time.monotonic() + self._timeout
        try:
            with self._session().get(
                url, headers=headers, timeout=self._timeout, allow_redirects=False, stream=True
            ) as response:
                return receive(url, response.raw, deadline)
        except ValueError as error:  # requests' InvalidURL, MissingSchema, InvalidSchema
            raise FetchError(f"{url}: {error}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"{url}: {error}") from error

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._slot, "session", None)
        if session is None:
            session = self._slot.session = requests.Session()
            session.trust_env = False
            session.headers["user-agent"] = USER_AGENT
            adapter = HTTPAdapter(pool_connections=16, pool_maxsize=1)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
        return session


FETCHERS: dict[str, Callable[[float], Fetcher]] = {
    "shared": SharedFetcher,
    "per-slot": SlotFetcher,
}


def receive(url: str, response: urllib3.BaseHTTPResponse, deadline: float) -> Response:
    """Read the body of ``response`` and give its connection back.

    ``read1`` returns what has arrived: a server that drips a byte a second cannot stretch one
    read past the deadline.
    """
    body = bytearray()
    try:
        while chunk := response.read1(decode_content=True):
            body += chunk
            if len(body) > MAX_BODY:
                raise FetchError(f"{url}: larger than {MAX_BODY} bytes")
            if time.monotonic() > deadline:
                raise TransientError(f"{url}: timed out while the body arrived")
    except BaseException:
        # Half-read, so its connection cannot serve another request.
        response.close()
        raise
    response.release_conn()
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(url, response.status, headers, bytes(body))


def follow(
    fetcher: Fetcher,
    url: str,
    headers: Mapping[str, str],
    before_hop: Callable[[str], None],
) -> Response:
    """Fetch ``url`` and follow its redirects.

    Args:
        fetcher: Does one hop.
        url: Where to start.
        headers: Sent with every hop.
        before_hop: Called with each redirect target before it is asked, to stay polite: a redirect
            may lead to another site.

    Raises:
        TransientError: A time-out, a lost connection, or an HTTP status that invites a retry.
        FetchError: Too many redirects, one that leads nowhere, or a body that is too large.
    """
    here = url
    for redirects in range(MAX_REDIRECTS + 1):
        response = fetcher.get(here, headers)
        if response.status in TRANSIENT:
            pause = response.headers.get("retry-after", "")
            raise TransientError(
                f"{here}: HTTP {response.status}", float(pause) if pause.isdecimal() else 0.0
            )
        if response.status not in REDIRECTS:
            return Response(here, response.status, response.headers, response.body, redirects)
        if "location" not in response.headers:
            raise FetchError(f"{here}: HTTP {response.status} without a Location")
        here = urljoin(here, response.headers["location"])
        if not here.startswith(("http://", "https://")):
            raise FetchError(f"{url}: redirects to {here}, which is not HTTP")
        before_hop(here)
    raise FetchError(f"{url}: more than {MAX_REDIRECTS} redirects")
