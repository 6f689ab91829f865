"""Title and links of an HTML page."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin, urlsplit


def read_page(body: bytes, url: str) -> tuple[str, list[str]]:
    """Return the title, and the links to pages of the same site, absolute, each once."""
    reader = _Reader()
    reader.feed(body.decode("utf-8", "replace"))
    links = (urldefrag(urljoin(url, href)).url for href in reader.hrefs)
    here = urlsplit(url)[:2]
    same_site = (link for link in links if urlsplit(link)[:2] == here)
    return " ".join("".join(reader.title).split()), list(dict.fromkeys(same_site))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.title: list[str] = []
        self.hrefs: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
