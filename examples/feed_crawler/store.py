"""What the crawl found, in SQLite.

SQLite calls are C code: they never switch greenlets, and while one waits for a lock the whole hub
waits. So there is one connection per process, and a transaction holds nothing but SQL: no HTTP, no
publish, no sleep. Under greenlets it then runs start to end as if alone, and two slots can never
meet inside one. A lock does the same for ``-P threads``; under prefork every child opens its own
connection, and WAL with a busy timeout lets them take turns.

Every write may be repeated without harm: rows have natural keys, and a re-delivered task finds its
own work done.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from feed_crawler.feeds import Feed

SCHEMA = """
CREATE TABLE IF NOT EXISTS feeds (
    url         TEXT PRIMARY KEY,
    -- found (its task is not published yet), pending, then one of: ok, unchanged (304), broken,
    -- page (HTML that names feeds), failed
    state       TEXT NOT NULL DEFAULT 'pending',
    title       TEXT NOT NULL DEFAULT '',
    version     TEXT NOT NULL DEFAULT '',
    final_url   TEXT NOT NULL DEFAULT '',
    redirects   INTEGER NOT NULL DEFAULT 0,
    attempts    INTEGER NOT NULL DEFAULT 0,
    error       TEXT NOT NULL DEFAULT '',
    etag        TEXT NOT NULL DEFAULT '',
    modified    TEXT NOT NULL DEFAULT '',
    found_on    TEXT NOT NULL DEFAULT '',
    finished_at REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS feeds_pending ON feeds (url) WHERE state IN ('pending', 'found');

CREATE TABLE IF NOT EXISTS entries (
    feed_url    TEXT NOT NULL REFERENCES feeds (url),
    guid        TEXT NOT NULL,
    title       TEXT NOT NULL,
    link        TEXT NOT NULL,
    published   TEXT NOT NULL,
    -- none (not asked for), wanted, then ok or failed
    article     TEXT NOT NULL DEFAULT 'none',
    text        TEXT NOT NULL DEFAULT '',
    error       TEXT NOT NULL DEFAULT '',
    finished_at REAL,
    PRIMARY KEY (feed_url, guid)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_wanted ON entries (feed_url) WHERE article = 'wanted';
"""


@dataclass(frozen=True)
class Validators:
    """What a conditional GET sends back to a server; empty when there is nothing."""

    etag: str = ""
    modified: str = ""

    def headers(self) -> dict[str, str]:
        """Return the request headers for a conditional GET."""
        headers = {}
        if self.etag:
            headers["if-none-match"] = self.etag
        if self.modified:
            headers["if-modified-since"] = self.modified
        return headers


@dataclass(frozen=True)
class Progress:
    """How far a crawl is."""

    feeds: int
    feeds_pending: int
    articles: int
    articles_wanted: int

    @property
    def finished(self) -> bool:
        return not self.feeds_pending and not self.articles_wanted


class Store:
    """The SQLite file at ``path``, created on first use."""

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0

    def close(self) -> None:
        if self._connection is not None and self._pid == os.getpid():
            self._connection.close()
        self._connection = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one write transaction. Do nothing but SQL inside."""
        with self._lock:
            connection = self._open()
            # IMMEDIATE: wait for other processes here, not half-way where SQLite cannot wait.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def rows(self, query: str, *arguments: object) -> list[sqlite3.Row]:
        """Return what ``query`` selects."""
        with self._lock:
            return self._open().execute(query, arguments).fetchall()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None or self._pid != os.getpid():
            # A connection must not cross a fork, so one that did is left to its parent.
            self._connection = sqlite3.connect(
                self._path, timeout=30, isolation_level=None, check_same_thread=False
            )
            self._pid = os.getpid()
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            # In WAL mode this loses no consistency, and saves an fsync per commit.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(SCHEMA)
        return self._connection

    def add_feeds(self, urls: Iterable[str]) -> None:
        """Add the feeds that are not known yet."""
        with self.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO feeds (url) VALUES (?)", [(url,) for url in urls])

    def find_feeds(self, urls: Iterable[str], found_on: str) -> list[str]:
        """Add the feeds that the page ``found_on`` names and that are not known yet.

        Returns:
            Every feed found on that page whose task is not published yet. :meth:`publish_feeds`
            says that it is; a worker killed before that leaves the feed to the page's next run.
        """
        with self.transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO feeds (url, state, found_on) VALUES (?, 'found', ?)",
                [(url, found_on) for url in urls],
            )
            found = db.execute(
                "SELECT url FROM feeds WHERE found_on = ? AND state = 'found'", (found_on,)
            ).fetchall()
        return [row["url"] for row in found]

    def publish_feeds(self, urls: Iterable[str]) -> None:
        """Record that these found feeds have their task."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE feeds SET state = 'pending' WHERE url = ? AND state = 'found'",
                [(url,) for url in urls],
            )

    def start_round(self) -> list[str]:
        """Mark every feed as pending again and return their URLs."""
        with self.transaction() as db:
            db.execute(
                "UPDATE feeds SET state = 'pending', attempts = 0, redirects = 0, error = '',"
                " finished_at = NULL"
            )
        return [row["url"] for row in self.rows("SELECT url FROM feeds ORDER BY url")]

    def validators(self, url: str) -> Validators:
        """Return what to send for a conditional GET of ``url``."""
        for row in self.rows("SELECT etag, modified FROM feeds WHERE url = ?", url):
            return Validators(row["etag"], row["modified"])
        return Validators()

    def finish_feed(
        self,
        url: str,
        state: str,
        *,
        attempts: int,
        redirects: int = 0,
        final_url: str = "",
        error: str = "",
    ) -> None:
        """Record the outcome of a feed that brought no entries."""
        with self.transaction() as db:
            db.execute(
                "UPDATE feeds SET state = ?, attempts = ?, redirects = ?, final_url = ?,"
                " error = ?, finished_at = ? WHERE url = ?",
                (state, attempts, redirects, final_url, error, time.time(), url),
            )

    def save_feed(
        self,
        url: str,
        feed: Feed,
        validators: Validators,
        *,
        attempts: int,
        redirects: int,
        final_url: str,
        articles: int,
    ) -> list[tuple[str, str]]:
        """Store a feed and those of its entries that are new.

        A broken feed keeps the entries that could be read, but not its validators: it is worth
        fetching in full until it is repaired.

        Args:
            url: The feed's key.
            feed: What was parsed.
            validators: For the next conditional GET.
            attempts: How many tries it took.
            redirects: How many were followed.
            final_url: Where the feed came from in the end.
            articles: At most so many new entries are marked as wanted in full.

        Returns:
            ``(guid, link)`` of every article of this feed that is still wanted, earlier ones
            included, so that a re-delivered task publishes what its first run could not.
        """
        kept = Validators() if feed.problem else validators
        with self.transaction() as db:
            new = [
                entry
                for entry in feed.entries
                if db.execute(
                    "INSERT OR IGNORE INTO entries (feed_url, guid, title, link, published)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (url, entry.guid, entry.title, entry.link, entry.published),
                ).rowcount
            ]
            fetchable = [entry for entry in new if entry.link.startswith(("http://", "https://"))]
            db.executemany(
                "UPDATE entries SET article = 'wanted' WHERE feed_url = ? AND guid = ?",
                [(url, entry.guid) for entry in fetchable[:articles]],
            )
            db.execute(
                "UPDATE feeds SET state = ?, title = ?, version = ?, final_url = ?, redirects = ?,"
                " attempts = ?, error = ?, etag = ?, modified = ?, finished_at = ? WHERE url = ?",
                (
                    "broken" if feed.problem else "ok",
                    *(feed.title, feed.version, final_url, redirects, attempts, feed.problem),
                    *(kept.etag, kept.modified, time.time(), url),
                ),
            )
            wanted = db.execute(
                "SELECT guid, link FROM entries WHERE feed_url = ? AND article = 'wanted'", (url,)
            ).fetchall()
        return [(row["guid"], row["link"]) for row in wanted]

    def finish_article(self, feed_url: str, guid: str, *, text: str = "", error: str = "") -> None:
        """Record the text of an article, or why there is none."""
        with self.transaction() as db:
            db.execute(
                "UPDATE entries SET article = ?, text = ?, error = ?, finished_at = ?"
                " WHERE feed_url = ? AND guid = ?",
                ("failed" if error else "ok", text, error, time.time(), feed_url, guid),
            )

    def progress(self) -> Progress:
        """Count what there is and what is still to do, in one consistent view."""
        (row,) = self.rows(
            "SELECT (SELECT count(*) FROM feeds),"
            " (SELECT count(*) FROM feeds WHERE state IN ('pending', 'found')),"
            " (SELECT count(*) FROM entries WHERE article != 'none'),"
            " (SELECT count(*) FROM entries WHERE article = 'wanted')"
        )
        return Progress(*row)

    def states(self) -> dict[str, int]:
        """Count the feeds by state."""
        counted = self.rows("SELECT state, count(*) AS n FROM feeds GROUP BY state ORDER BY state")
        return {row["state"]: row["n"] for row in counted}

    def finish_times(self, since: float) -> Sequence[float]:
        """Return when each feed that was finished after ``since`` was, in order."""
        query = "SELECT finished_at FROM feeds WHERE finished_at >= ? ORDER BY finished_at"
        return [row["finished_at"] for row in self.rows(query, since)]

    def last_finish(self) -> float:
        """When the last feed or article was finished, or 0."""
        (row,) = self.rows(
            "SELECT max(coalesce((SELECT max(finished_at) FROM feeds), 0),"
            " coalesce((SELECT max(finished_at) FROM entries), 0))"
        )
        return float(row[0])
