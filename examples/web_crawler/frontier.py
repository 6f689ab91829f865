"""Which pages were seen, and which are still being worked on, in Redis.

One atomic step claims pages: of the given URLs it returns those that nobody has claimed, within
the page limit. So a thousand slots of many workers may find the same link at once, and exactly one
of them publishes its task.
"""

from __future__ import annotations

from collections.abc import Sequence

import redis

# KEYS: seen, open.  ARGV: page limit, URLs.
CLAIM = """
local room = tonumber(ARGV[1]) - redis.call('SCARD', KEYS[1])
local claimed = {}
for i = 2, #ARGV do
    if #claimed >= room then break end
    if redis.call('SADD', KEYS[1], ARGV[i]) == 1 then
        redis.call('SADD', KEYS[2], ARGV[i])
        claimed[#claimed + 1] = ARGV[i]
    end
end
return claimed
"""


class Frontier:
    """The state of one crawl.

    Args:
        url: A Redis.
        name: Keeps crawls on one Redis apart.
        max_pages: How many pages are claimed at most.
    """

    def __init__(self, url: str, name: str, max_pages: int) -> None:
        # Bounded: callers beyond it wait for a free connection instead of opening their own.
        pool = redis.BlockingConnectionPool.from_url(
            url, max_connections=16, timeout=30, decode_responses=True
        )
        self._redis = redis.Redis(connection_pool=pool)
        self._claim = self._redis.register_script(CLAIM)
        self._max_pages = max_pages
        self._seen, self._open, self._found, self._failed = (
            f"{name}:{part}" for part in ("seen", "open", "found", "failed")
        )

    def claim(self, urls: Sequence[str]) -> list[str]:
        """Return those of ``urls`` that are new; they count as open from now on."""
        if not urls:
            return []
        return list(self._claim(keys=[self._seen, self._open], args=[self._max_pages, *urls]))

    def finish(self, url: str, title: str) -> None:
        """Record the title of a page, whose links must have been claimed before."""
        with self._redis.pipeline() as pipe:
            pipe.hset(self._found, url, title).srem(self._open, url).execute()

    def fail(self, url: str, reason: str) -> None:
        """Record why a page could not be read."""
        with self._redis.pipeline() as pipe:
            pipe.hset(self._failed, url, reason).srem(self._open, url).execute()

    def counts(self) -> tuple[int, int]:
        """Return how many pages were claimed, and how many of them are still open."""
        with self._redis.pipeline() as pipe:
            seen, still_open = pipe.scard(self._seen).scard(self._open).execute()
        return seen, still_open

    def found(self) -> dict[str, str]:
        """Return title by URL of the pages that were read."""
        return dict(self._redis.hgetall(self._found))

    def failed(self) -> dict[str, str]:
        """Return reason by URL of the pages that were not."""
        return dict(self._redis.hgetall(self._failed))

    def drop(self) -> None:
        """Delete this crawl's keys and close the connections."""
        self._redis.delete(self._seen, self._open, self._found, self._failed)
        self._redis.connection_pool.disconnect()
