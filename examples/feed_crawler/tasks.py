"""The tasks, and how they follow each other.

::

    fetch_feed ──► store_entries ──► fetch_article (for the newest entries)
        └── an HTML page that names feeds ──► fetch_feed for each of them

Each task ends its row in the store, whatever happens: ``on_failure`` marks what ran out of retries
or hit a bug, so no feed stays pending and none is lost without a reason written beside it.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from typing import Any

from celery import Task

from feed_crawler.app import app
from feed_crawler.feeds import Entry, Feed, parse_feed
from feed_crawler.fetching import FETCHERS, Fetcher, FetchError, TransientError, follow
from feed_crawler.pages import article_text, feed_links, is_html
from feed_crawler.politeness import SiteLimiter
from feed_crawler.settings import Settings
from feed_crawler.store import Store, Validators

SETTINGS = Settings.from_env()
STORE = Store(SETTINGS.database)

# A slot sleeps this long for its site at most. Beyond, the task goes back to the broker, or a
# thousand tasks for one slow site would fill the pool while the other sites wait.
PATIENCE = 1.0

RETRYING: dict[str, Any] = {
    "autoretry_for": (TransientError,),
    "retry_backoff": 1,
    "retry_backoff_max": 60,
    # Spreads the retries of all feeds of a site that was down.
    "retry_jitter": True,
    "max_retries": 5,
}


@lru_cache(maxsize=1)
def outside(pid: int) -> tuple[Fetcher, SiteLimiter]:  # noqa: ARG001 - the cache's key
    """Return this process's connections; ``pid`` keeps them from crossing a fork."""
    return (
        FETCHERS[SETTINGS.http](SETTINGS.timeout),
        SiteLimiter(SETTINGS.redis, SETTINGS.site_rate, prefix=f"{SETTINGS.queue}:site:"),
    )


class RecordedTask(Task):
    """A task whose row in the store is finished also when the task failed for good."""

    def on_failure(self, exc: BaseException, _id: str, args: Any, _kwargs: Any, _info: Any) -> None:
        self.record_failure(f"{type(exc).__name__}: {exc}", *args)

    def record_failure(self, error: str, *args: str) -> None:
        raise NotImplementedError


class FeedTask(RecordedTask):
    def record_failure(self, error: str, *args: str) -> None:
        STORE.finish_feed(args[0], "failed", attempts=self.request.retries + 1, error=error)


class ArticleTask(RecordedTask):
    def record_failure(self, error: str, *args: str) -> None:
        STORE.finish_article(args[0], args[1], error=error)


@app.task(bind=True, base=FeedTask, throws=(FetchError,), **RETRYING)
def fetch_feed(self: Task, url: str, turn_of: int = -1) -> None:
    """Fetch a feed if it has changed, parse it, and send its entries on.

    Args:
        self: The task.
        url: The feed's key in the store.
        turn_of: The try, from 0, whose wait for the site was the countdown of this message.
    """
    fetcher, limiter = outside(os.getpid())
    if not take_turn(self, limiter, url, turn_of):
        return
    validators = STORE.validators(url)
    try:
        response = follow(fetcher, url, validators.headers(), lambda hop: sleep_turn(limiter, hop))
    except TransientError as trouble:
        if trouble.retry_after:
            limiter.hold_off(url, min(trouble.retry_after, 300.0))
        raise

    outcome = {
        "attempts": self.request.retries + 1,
        "redirects": response.redirects,
        "final_url": response.url,
    }
    content_type = response.headers.get("content-type", "")
    if response.status == 304:
        STORE.finish_feed(url, "unchanged", **outcome)
    elif response.status != 200:
        STORE.finish_feed(url, "failed", error=f"HTTP {response.status}", **outcome)
    elif is_html(content_type, response.body):
        links = feed_links(response.body, response.url)
        found = STORE.find_feeds(links, found_on=url)
        for link in found:
            fetch_feed.delay(link)
        STORE.publish_feeds(found)
        STORE.finish_feed(
            url,
            "page" if links else "broken",
            error="" if links else "an HTML page that names no feed",
            **outcome,
        )
    else:
        feed = parse_feed(response.body, response.url, content_type)
        store_entries.delay(
            url,
            {
                "title": feed.title,
                "version": feed.version,
                "problem": feed.problem,
                "entries": [[e.guid, e.title, e.link, e.published] for e in feed.entries],
            },
            [response.headers.get("etag", ""), response.headers.get("last-modified", "")],
            outcome,
        )


@app.task(base=FeedTask)
def store_entries(
    url: str, parsed: dict[str, Any], validators: list[str], outcome: dict[str, Any]
) -> None:
    """Store the new entries of a feed and ask for the newest articles."""
    feed = Feed(
        parsed["title"],
        parsed["version"],
        tuple(Entry(*entry) for entry in parsed["entries"]),
        parsed["problem"],
    )
    wanted = STORE.save_feed(
        url, feed, Validators(*validators), articles=SETTINGS.articles, **outcome
    )
    for guid, link in wanted:
        fetch_article.delay(url, guid, link)


@app.task(bind=True, base=ArticleTask, throws=(FetchError,), **RETRYING)
def fetch_article(self: Task, feed_url: str, guid: str, link: str, turn_of: int = -1) -> None:
    """Fetch the page of an entry and keep its text."""
    fetcher, limiter = outside(os.getpid())
    if not take_turn(self, limiter, link, turn_of):
        return
    response = follow(fetcher, link, {}, lambda hop: sleep_turn(limiter, hop))
    if response.status != 200:
        STORE.finish_article(feed_url, guid, error=f"HTTP {response.status}")
    else:
        STORE.finish_article(feed_url, guid, text=article_text(response.body))


def take_turn(task: Task, limiter: SiteLimiter, url: str, turn_of: int) -> bool:
    """Wait for the turn of the site of ``url``, here or in the broker.

    Returns:
        Whether the task may go on. If not, its message was sent again with a countdown that ends
        at the reserved moment, and this run is over.
    """
    this_try = task.request.retries
    if turn_of == this_try:
        return True
    wait = limiter.reserve(url)
    if wait <= PATIENCE:
        time.sleep(wait)
        return True
    # Not `task.retry`: waiting for a turn is no failure and must not use up a try.
    task.apply_async(
        task.request.args,
        {**task.request.kwargs, "turn_of": this_try},
        countdown=wait,
        retries=this_try,
    )
    return False


def sleep_turn(limiter: SiteLimiter, url: str) -> None:
    """Wait here for the turn of the site of a redirect target."""
    time.sleep(limiter.reserve(url))
