"""The Celery app and its one task: ``celery -A web_crawler.app worker -P hybrid.gevent -c 200``.

The task publishes itself for every link it is the first to find. The runner hands over the crawl's
settings in ``WEB_CRAWLER_*`` environment variables.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urljoin

import urllib3
from celery import Celery, Task
from feed_crawler.politeness import SiteLimiter, site_of

from web_crawler.frontier import Frontier
from web_crawler.links import read_page

MAX_BODY = 2 * 2**20

app = Celery("web_crawler", broker=os.environ.get("WEB_CRAWLER_BROKER", "redis://127.0.0.1/0"))
app.conf.update(
    task_default_queue=os.environ.get("WEB_CRAWLER_QUEUE", "web-crawler"),
    task_ignore_result=True,
    # A visit may run twice without harm. (Not covered: a worker killed between claiming a link and
    # publishing its task. That page stays open, and the runner says so at its deadline.)
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
)
if str(app.conf.broker_url).startswith("redis"):
    # kombu's default of 10 is too few for stock green pools, where each task acknowledges from
    # its own greenlet: the eleventh at a time fails with "Too many connections".
    app.conf.broker_transport_options = {"max_connections": 2000}

# Thread-safe, so shared by all slots; see feed_crawler/fetching.py for the choice.
HTTP = urllib3.PoolManager(num_pools=100, maxsize=64, block=False)
REDIS = os.environ.get("WEB_CRAWLER_REDIS", "redis://127.0.0.1/0")
LIMITER = SiteLimiter(
    REDIS, float(os.environ.get("WEB_CRAWLER_RATE", "2")), prefix=f"{app.conf.task_default_queue}:"
)
FRONTIER = Frontier(
    REDIS,
    app.conf.task_default_queue,
    int(os.environ.get("WEB_CRAWLER_PAGES", "100")),
)


class PageError(Exception):
    """A page that cannot be read; its text is the reason."""


class VisitTask(Task):
    def on_failure(self, exc: BaseException, _id: str, args: Any, _kwargs: Any, _info: Any) -> None:
        FRONTIER.fail(args[0], f"{type(exc).__name__}: {exc}")


@app.task(
    base=VisitTask,
    throws=(PageError,),
    autoretry_for=(urllib3.exceptions.HTTPError,),
    retry_backoff=1,
    max_retries=3,
)
def visit(url: str, depth: int) -> None:
    """Read the page at ``url`` and publish a visit for each of its new links.

    Args:
        url: An absolute URL that has been claimed.
        depth: How many more links may be followed from here.
    """
    response = HTTP.request(
        "GET", url, timeout=10, retries=False, redirect=False, preload_content=False
    )
    try:
        body = response.read(MAX_BODY)
    finally:
        response.release_conn()
    if response.status in (301, 302, 303, 307, 308):
        target = urljoin(url, response.headers.get("location", ""))
        title, links = f"moved to {target}", [target] if site_of(target) == site_of(url) else []
    elif response.status == 200:
        title, links = read_page(body, url)
    else:
        raise PageError(f"HTTP {response.status}")
    if depth > 0:
        for link in FRONTIER.claim(links):
            # Each visit waits for its turn in the broker, so no slot is held by waiting.
            visit.apply_async((link, depth - 1), countdown=LIMITER.reserve(link) or None)
    FRONTIER.finish(url, title)
