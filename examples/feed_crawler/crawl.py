"""One crawl on one pool, in fresh state, measured.

Everything is new for every crawl: Redis, SQLite file, queue name, local web and worker. So two
pools see the same feeds in the same condition, and a crawl leaves nothing behind on a broker of
yours.
"""

from __future__ import annotations

import time
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from json import loads
from pathlib import Path
from sys import executable
from typing import Any

from celery import Celery
from launch import Child, LaunchError, Worker, own_queue, redis_for
from launch.process import Deadline, Usage

from feed_crawler.app import create_app
from feed_crawler.settings import Settings
from feed_crawler.site import feed_urls
from feed_crawler.store import Progress, Store

ROUNDS = ("first crawl", "re-crawl")
POLL = 0.2


@dataclass(frozen=True)
class Plan:
    """What to crawl and how; the same for every pool of a comparison.

    Attributes:
        feeds: How many local feeds, unless ``urls`` names others.
        urls: The user's own feeds; the local web is not started then.
        concurrency: What follows ``-c``.
        rounds: 1, or 2 to crawl again and see the 304s.
        sites: How many sites the local web has.
        broker: The user's broker, or ``None`` for an embedded Redis.
        settings: Rate, time-out, HTTP and articles; the rest is filled in per crawl.
        deadline: Seconds that one round may take.
        stall: Seconds that a stalled local feed keeps silent.
    """

    feeds: int
    urls: tuple[str, ...]
    concurrency: int
    rounds: int
    sites: int
    broker: str | None
    settings: Settings
    deadline: float
    stall: float


@dataclass(frozen=True)
class Round:
    """What one round over all feeds brought and cost.

    Attributes:
        name: One of ``ROUNDS``.
        feeds: How many were crawled, those found on the way included.
        seconds: From the first publish to the last feed or article.
        seconds_90: From the first publish until nine of ten feeds were finished: without the tail
            that waits for time-outs and backoff, which no pool can shorten.
        tasks: Task runs, by the worker's own count; retries are runs.
        cpu_s: CPU seconds of the worker.
        states: Feeds by outcome.
        entries: Entries in the store at the end.
        articles: Articles in the store at the end.
        retries: Repeated fetches of feeds.
        redirected: Feeds that were reached over a redirect.
        connections: TCP connections that the local web accepted; ``None`` for other feeds.
        answers: What the local web answered, by kind and HTTP status.
    """

    name: str
    feeds: int
    seconds: float
    seconds_90: float
    tasks: int
    cpu_s: float
    states: dict[str, int]
    entries: int
    articles: int
    retries: int
    redirected: int
    connections: int | None
    answers: dict[str, int] = field(default_factory=dict)

    @property
    def feeds_per_s(self) -> float:
        return self.feeds / self.seconds

    @property
    def feeds_per_s_90(self) -> float:
        return 0.9 * self.feeds / self.seconds_90

    @property
    def tasks_per_s(self) -> float:
        return self.tasks / self.seconds

    @property
    def cpu_ms_per_task(self) -> float:
        return 1000 * self.cpu_s / self.tasks


@dataclass(frozen=True)
class Crawl:
    """The rounds of one pool, and what it needed."""

    pool: str
    rounds: tuple[Round, ...]
    start_s: float
    rss_mb: float
    failures: tuple[tuple[str, str], ...]
    database: str


Watcher = Callable[[str, Progress], None]


def run_crawl(pool: str, plan: Plan, directory: Path, watch: Watcher) -> Crawl:
    """Start everything, crawl, measure, and end everything.

    Args:
        pool: What follows ``-P``.
        plan: What to crawl and how.
        directory: Empty; gets the database and the logs.
        watch: Called a few times a second with the name of the round and how far it is.

    Raises:
        LaunchError: Something did not start, died, or took longer than the plan allows.
    """
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_for(plan.broker, directory))
        settings = replace(
            plan.settings,
            broker=plan.broker or redis_url,
            redis=redis_url,
            database=str(directory / "feeds.sqlite3"),
            queue=f"feed-crawler-{uuid.uuid4().hex[:8]}",
        )
        web = None if plan.urls else stack.enter_context(LocalWeb(plan, directory))
        store = stack.enter_context(closing(Store(settings.database)))
        store.add_feeds(plan.urls or feed_urls(plan.feeds, web.ports if web else []))
        app = create_app(settings)
        stack.enter_context(own_queue(app))

        began = time.monotonic()
        worker = stack.enter_context(
            Worker(
                app,
                "feed_crawler.app",
                pool=pool,
                concurrency=plan.concurrency,
                queue=settings.queue,
                log=directory / "worker.log",
                env=settings.to_env(),
            )
        )
        worker.wait_ready()
        start_s = time.monotonic() - began
        rounds = tuple(
            run_round(name, app, worker, store, web, plan.deadline, watch)
            for name in ROUNDS[: plan.rounds]
        )
        failed = store.rows(
            "SELECT url, error FROM feeds WHERE state IN ('broken', 'failed') ORDER BY url"
        )
        return Crawl(
            pool=pool,
            rounds=rounds,
            start_s=start_s,
            rss_mb=worker.usage().rss_mb,
            failures=tuple((row["url"], row["error"]) for row in failed),
            database=settings.database,
        )


def run_round(
    name: str,
    app: Celery,
    worker: Worker,
    store: Store,
    web: LocalWeb | None,
    deadline_s: float,
    watch: Watcher,
) -> Round:
    """Publish one ``fetch_feed`` per feed and wait until the store has nothing left to do."""
    urls = store.start_round()
    before = Snapshot.take(worker, web)
    deadline = Deadline(deadline_s)
    began = time.time()
    fetch_feed = app.signature("feed_crawler.tasks.fetch_feed")
    with app.producer_or_acquire() as producer:
        for number, url in enumerate(urls):
            fetch_feed.clone(args=(url,)).apply_async(producer=producer)
            if number % 100 == 0:
                watch(name, store.progress())

    while not (progress := store.progress()).finished:
        watch(name, progress)
        worker.check_alive()
        if deadline.passed:
            raise LaunchError(
                worker.describe_failure(
                    f"left {progress.feeds_pending} of {progress.feeds} feeds and "
                    f"{progress.articles_wanted} articles after {deadline_s:g} s "
                    "(--deadline gives it more)"
                )
            )
        time.sleep(POLL)
    watch(name, progress)

    after = Snapshot.take(worker, web)
    finished = store.finish_times(began)
    (counts,) = store.rows(
        "SELECT (SELECT count(*) FROM entries) AS entries,"
        " (SELECT count(*) FROM entries WHERE article = 'ok') AS articles,"
        " (SELECT total(max(attempts - 1, 0)) FROM feeds) AS retries,"
        " (SELECT count(*) FROM feeds WHERE redirects > 0) AS redirected"
    )
    return Round(
        name=name,
        feeds=progress.feeds,
        seconds=store.last_finish() - began,
        seconds_90=finished[len(finished) * 9 // 10] - began,
        tasks=after.tasks - before.tasks,
        cpu_s=after.usage.cpu_s - before.usage.cpu_s,
        states=store.states(),
        entries=counts["entries"],
        articles=counts["articles"],
        retries=int(counts["retries"]),
        redirected=counts["redirected"],
        connections=after.connections - before.connections if web else None,
        answers={
            what: count - before.answers.get(what, 0)
            for what, count in sorted(after.answers.items())
            if count > before.answers.get(what, 0)
        },
    )


@dataclass(frozen=True)
class Snapshot:
    """Counters that only grow, read before and after a round."""

    tasks: int
    usage: Usage
    connections: int
    answers: dict[str, int]

    @classmethod
    def take(cls, worker: Worker, web: LocalWeb | None) -> Snapshot:
        stats: dict[str, Any] = web.stats() if web else {"connections": 0, "answers": {}}
        return cls(worker.tasks_started(), worker.usage(), stats["connections"], stats["answers"])


class LocalWeb(Child):
    """The process of :mod:`feed_crawler.site`."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        super().__init__(
            [
                *(executable, "-m", "feed_crawler.site"),
                *("--sites", str(plan.sites), "--stall", str(plan.stall)),
            ],
            directory / "site.log",
            reads_stdout=True,
        )
        try:
            self.ports: Sequence[int] = loads(self.first_line(timeout=15))["ports"]
        except BaseException:
            self.stop()
            raise

    def stats(self) -> dict[str, Any]:
        """Return what the web has counted so far."""
        # Without a proxy from the environment: this is loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.ports[0]}/stats", timeout=10) as answer:
            counts: dict[str, Any] = loads(answer.read())
        return counts
