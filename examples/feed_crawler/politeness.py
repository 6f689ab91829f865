"""One site is asked at most N times a second, by all workers together.

Celery's ``rate_limit`` counts per task and per worker, so it cannot say "per site". Here each
request reserves the next free moment of its site in Redis: one atomic step, first come first
served, no polling and no lock. What the caller gets back is how long to wait; whether it sleeps
(a green sleep parks one slot only) or comes back later with a countdown is its own decision.
"""

from __future__ import annotations

import math
from urllib.parse import urlsplit

import redis

# Times are microseconds by the clock of Redis, the only one that all workers share. `%.0f`
# because Lua would print a number that large as 1.7e+15.
RESERVE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local at = math.max(now, tonumber(redis.call('GET', KEYS[1]) or '0'))
local after = at + tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.0f', after),
           'PX', string.format('%.0f', math.ceil((after - now) / 1000) + 1000))
return string.format('%.0f', at - now)
"""


class SiteLimiter:
    """Hands out the moments at which a site may be asked.

    Safe to share between greenlets, threads and workers.

    Args:
        url: The Redis that all workers of this crawl use.
        rate: Requests per second and site.
        prefix: Keeps the keys of two crawls on one Redis apart.
        connections: Upper bound of connections; more callers than this wait for each other.
    """

    def __init__(self, url: str, rate: float, *, prefix: str, connections: int = 16) -> None:
        pool = redis.BlockingConnectionPool.from_url(url, max_connections=connections, timeout=30)
        self._redis = redis.Redis(connection_pool=pool)
        self._reserve = self._redis.register_script(RESERVE)
        self._interval_us = math.ceil(1_000_000 / rate)
        self._prefix = prefix

    def reserve(self, url: str) -> float:
        """Take the next free moment of the site of ``url`` and return the seconds until it."""
        return self._take(url, self._interval_us)

    def hold_off(self, url: str, seconds: float) -> None:
        """Leave the site of ``url`` alone for ``seconds``, because it said ``Retry-After``."""
        self._take(url, math.ceil(seconds * 1_000_000))

    def _take(self, url: str, length_us: int) -> float:
        return int(self._reserve(keys=[self._prefix + site_of(url)], args=[length_us])) / 1_000_000


def site_of(url: str) -> str:
    """Return scheme, host and port: what robots.txt and browsers call one origin."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"
