"""A small web to crawl: feeds of every kind, healthy and not, on many ports of 127.0.0.1.

``python -m feed_crawler.site --sites 64`` prints one JSON line with its ports and serves until it
is ended. Each port is a site of its own for the politeness limiter. Answers take 20 to 100 ms, as
from a near server, and connections are kept alive. It is one asyncio process that writes prepared
bytes, and answers thousands of requests a second: several times what a worker asks for.

The path says what a feed does, so that no side has to remember anything:

=========== =====================================================================================
kind        behaviour
=========== =====================================================================================
``rss2``    RSS 2.0
``atom``    Atom 1.0
``rss1``    RSS 1.0 (RDF)
``slow``    Atom after another 0.7 s
``moved``   301, then 302, then RSS 2.0
``broken``  even number: XML cut off in its last entry; odd: no XML at all
``flaky``   503 once or twice (every third time with ``Retry-After: 1``), then RSS 2.0
``stalled`` says nothing for ``--stall`` seconds the first time, then Atom
``gone``    404
``home``    an HTML page that names one feed in ``<link rel=alternate>``
=========== =====================================================================================

Feeds with an even number have an ``ETag``, the others ``Last-Modified``; both answer 304.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

ENTRIES = 8
LAST_MODIFIED = "Mon, 03 Nov 2025 08:00:00 GMT"
SLOW_SECONDS = 0.7

# How many of a hundred feeds are of which kind.
MIX = {
    "rss2": 39,
    "atom": 24,
    "rss1": 12,
    "slow": 5,
    "moved": 6,
    "broken": 5,
    "flaky": 5,
    "stalled": 1,
    "gone": 2,
    "home": 1,
}
TEXT = (
    "a green slot waits for the network while another one works and the hub turns again "
    "so that nobody stands still and every feed is read in its time"
)
WORDS = TEXT.split()


def kinds(count: int) -> Iterator[str]:
    """Yield the kinds of ``count`` feeds in the proportions of ``MIX``, evenly spread."""
    drawn: Counter[str] = Counter()
    for number in range(1, count + 1):
        kind = max(MIX, key=lambda k: MIX[k] * number / 100 - drawn[k])
        drawn[kind] += 1
        yield kind


def feed_urls(count: int, ports: Sequence[int]) -> list[str]:
    """Return the URLs of ``count`` feeds, spread over the sites."""
    return [
        f"http://127.0.0.1:{ports[number % len(ports)]}/feed/{kind}/{number}"
        for number, kind in enumerate(kinds(count))
    ]


@lru_cache(maxsize=50_000)
def feed_body(kind: str, number: int, base: str) -> bytes:
    """Render a feed of ``ENTRIES`` entries whose links point at ``base``."""
    items = [
        (
            f"{base}/article/{number}/{entry}",
            f"Entry {entry} of feed {number}",
            " ".join(WORDS[(number + entry + i) % len(WORDS)] for i in range(30)),
        )
        for entry in range(ENTRIES)
    ]
    title = f"Feed {number}"
    if kind == "atom":
        entries = "".join(
            f"<entry><id>{link}</id><title>{name}</title><link href='{link}'/>"
            f"<updated>2025-11-0{i + 1}T08:00:00Z</updated><summary>{text}</summary></entry>"
            for i, (link, name, text) in enumerate(items)
        )
        document = (
            f"<feed xmlns='http://www.w3.org/2005/Atom'><title>{title}</title><id>{base}/</id>"
            f"<updated>2025-11-08T08:00:00Z</updated>{entries}</feed>"
        )
    elif kind == "rss1":
        entries = "".join(
            f"<item rdf:about='{link}'><title>{name}</title><link>{link}</link>"
            f"<dc:date>2025-11-0{i + 1}T08:00:00Z</dc:date>"
            f"<description>{text}</description></item>"
            for i, (link, name, text) in enumerate(items)
        )
        document = (
            "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'"
            " xmlns='http://purl.org/rss/1.0/' xmlns:dc='http://purl.org/dc/elements/1.1/'>"
            f"<channel rdf:about='{base}/'><title>{title}</title><link>{base}/</link>"
            f"<description>-</description></channel>{entries}</rdf:RDF>"
        )
    else:
        entries = "".join(
            f"<item><guid>{link}</guid><title>{name}</title><link>{link}</link>"
            f"<pubDate>Mon, 0{i + 1} Nov 2025 08:00:00 GMT</pubDate>"
            f"<description>{text}</description></item>"
            for i, (link, name, text) in enumerate(items)
        )
        document = (
            f"<rss version='2.0'><channel><title>{title}</title><link>{base}/</link>"
            f"<description>-</description>{entries}</channel></rss>"
        )
    whole = f"<?xml version='1.0' encoding='utf-8'?>{document}".encode()
    return whole[:-120] if kind == "broken" else whole


def article_body(number: str, entry: str) -> bytes:
    text = " ".join(WORDS * 6)
    return (
        f"<!doctype html><html><head><title>Entry {entry}</title></head><body><nav>Home</nav>"
        f"<article><h1>Entry {entry} of feed {number}</h1><p>{text}</p></article></body></html>"
    ).encode()


class Site:
    """Decides on answers, and counts what it was asked."""

    def __init__(self, stall: float) -> None:
        self.stall = stall
        self.connections = 0
        self.answers: Counter[str] = Counter()
        self._visits: Counter[str] = Counter()

    def answer(self, path: str, headers: dict[str, str]) -> tuple[float, bytes]:
        """Return the seconds to wait and the bytes to send for one GET."""
        base = f"http://{headers.get('host', '127.0.0.1')}"
        parts = path.strip("/").split("/")
        if parts == ["stats"]:
            counts = {"connections": self.connections, "answers": dict(self.answers)}
            return 0.0, response(200, json.dumps(counts).encode(), "application/json")
        delay = 0.02 + sum(path.encode()) * 37 % 80 / 1000
        extra: dict[str, str]
        if len(parts) == 3 and parts[0] == "article":
            status, body, kind, extra = 200, article_body(*parts[1:]), "text/html", {}
        elif len(parts) == 3 and parts[0] == "feed" and parts[2].isdecimal():
            more, status, body, kind, extra = self._feed(parts[1], int(parts[2]), base, headers)
            delay += more
        else:
            status, body, kind, extra = 404, b"nothing here", "text/plain", {}
        self.answers[f"{parts[0]} {status}"] += 1
        return delay, response(status, body, kind, extra)

    def _feed(
        self, kind: str, number: int, base: str, headers: dict[str, str]
    ) -> tuple[float, int, bytes, str, dict[str, str]]:
        delay = 0.0
        key = f"{kind}/{number}"
        self._visits[key] += 1
        first_time = self._visits[key] == 1
        if kind == "gone":
            return delay, 404, b"gone", "text/plain", {}
        if kind == "home":
            page = (
                "<!doctype html><html><head><link rel='alternate' type='application/atom+xml'"
                f" href='/feed/atom/{number + 1_000_000}'></head><body>Welcome</body></html>"
            )
            return delay, 200, page.encode(), "text/html", {}
        if kind == "moved":
            return delay, 301, b"", "text/plain", {"Location": f"{base}/feed/moved-again/{number}"}
        if kind == "moved-again":
            return delay, 302, b"", "text/plain", {"Location": f"/feed/rss2/{number}"}
        if kind == "flaky" and self._visits[key] <= 1 + number % 2:
            pause = {"Retry-After": "1"} if number % 3 == 0 else {}
            return delay, 503, b"come back later", "text/plain", pause
        if kind == "stalled" and first_time:
            delay += self.stall
        if kind == "slow":
            delay += SLOW_SECONDS
        if kind == "broken" and number % 2:
            return delay, 200, b"Fatal error: out of memory in feed.php", "application/rss+xml", {}

        if number % 2:
            validator = {"Last-Modified": LAST_MODIFIED}
            fresh = headers.get("if-modified-since") == LAST_MODIFIED
        else:
            tag = f'"{kind}-{number}"'
            validator = {"ETag": tag}
            fresh = headers.get("if-none-match") == tag
        if fresh:
            return delay, 304, b"", "", validator
        shape = "atom" if kind in ("slow", "stalled") else kind
        return delay, 200, feed_body(shape, number, base), "application/xml", validator


def response(
    status: int, body: bytes, content_type: str, extra: dict[str, str] | None = None
) -> bytes:
    lines = [f"HTTP/1.1 {status} -", *(f"{k}: {v}" for k, v in (extra or {}).items())]
    if status != 304:
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """One keep-alive connection; answers in the order of the questions."""

    def __init__(self, site: Site, loop: asyncio.AbstractEventLoop) -> None:
        self._site = site
        self._asked = False
        self._loop = loop
        self._received = b""
        self._busy = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._next()

    def _next(self) -> None:
        if self._busy or b"\r\n\r\n" not in self._received:
            return
        head, self._received = self._received.split(b"\r\n\r\n", 1)
        request, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, _, v in (ln.partition(":") for ln in lines)}
        path = request.split(" ")[1]
        if not self._asked and path != "/stats":
            self._asked = True
            self._site.connections += 1
        delay, answer = self._site.answer(path, headers)
        self._busy = True
        self._loop.call_later(delay, self._send, answer)

    def _send(self, answer: bytes) -> None:
        self._busy = False
        if self._transport is not None:
            self._transport.write(answer)
            self._next()


async def serve(sites: int, stall: float) -> None:
    """Serve until the parent process is gone."""
    loop = asyncio.get_running_loop()
    site = Site(stall)
    servers = [
        await loop.create_server(lambda: Connection(site, loop), "127.0.0.1", 0, backlog=1024)
        for _ in range(sites)
    ]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    print(json.dumps({"ports": ports}), flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the local web of the feed crawler.")
    parser.add_argument("--sites", type=int, default=64, help="how many ports (default: 64)")
    parser.add_argument("--stall", type=float, default=8.0, help="seconds (default: 8)")
    options = parser.parse_args()
    # Thousands of connections at once when the crawler keeps none alive.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(serve(options.sites, options.stall))


if __name__ == "__main__":
    main()
