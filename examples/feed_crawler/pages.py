"""What the crawler wants from HTML: the feeds that a page names, and the text of an article."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urljoin

FEED_TYPES = frozenset({"application/rss+xml", "application/atom+xml", "application/rdf+xml"})
UNREAD = frozenset({"script", "style", "noscript", "template"})


def is_html(content_type: str, body: bytes) -> bool:
    return content_type.lower().startswith("text/html") or body[:64].lstrip()[:9].lower() in (
        b"<!doctype",
        b"<html>",
    )


def feed_links(body: bytes, url: str) -> list[str]:
    """Return the absolute URLs of the feeds that the page at ``url`` names, in its order."""
    finder = _FeedFinder()
    finder.feed(body.decode("utf-8", "replace"))
    links = (urljoin(url, href) for href in finder.found)
    return [link for link in dict.fromkeys(links) if link.startswith(("http://", "https://"))]


def article_text(body: bytes) -> str:
    """Return the words of ``<article>`` if there is one, or else of ``<body>``."""
    reader = _TextReader()
    reader.feed(body.decode("utf-8", "replace"))
    return " ".join(" ".join(reader.article or reader.page).split())


class _FeedFinder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if (
            tag == "link"
            and "alternate" in (given.get("rel") or "").lower().split()
            and (given.get("type") or "").lower() in FEED_TYPES
            and given.get("href")
        ):
            self.found.append(given["href"] or "")


class _TextReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page: list[str] = []
        self.article: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in UNREAD or tag in ("body", "article"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._open and not UNREAD.intersection(self._open):
            self.page.append(data)
            if "article" in self._open:
                self.article.append(data)
