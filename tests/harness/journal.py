"""What tasks, signals and custom classes saw, written by the worker and read by the test.

One Redis list per tag (a task id, or any word the test chose), one JSON object per entry, in the
order in which things happened.
"""

from __future__ import annotations

import json
import time
from typing import Any

import redis

from .waiting import eventually

JOURNAL = "journal"
"""The name of its connections, for tests that kill all others."""


class Journal:
    """Both ends of the journal; the worker writes, the test reads."""

    def __init__(self, url: str) -> None:
        # A thousand tasks may write at once, and redis-py's own bound is an error at 100.
        self._redis = redis.Redis.from_url(url, max_connections=10_000, client_name=JOURNAL)

    def write(self, tag: str, event: str, **fields: Any) -> None:
        entry = {"event": event, "at": time.time(), **fields}
        self._redis.rpush(f"journal:{tag}", json.dumps(entry, default=repr))

    def entries(self, tag: str, event: str | None = None) -> list[dict[str, Any]]:
        found = [json.loads(raw) for raw in self._redis.lrange(f"journal:{tag}", 0, -1)]
        return [entry for entry in found if event is None or entry["event"] == event]

    def events(self, tag: str) -> list[str]:
        return [entry["event"] for entry in self.entries(tag)]

    def count(self, tag: str) -> int:
        return int(self._redis.llen(f"journal:{tag}"))

    def wait_for(
        self, tag: str, event: str, times: int = 1, within: float = 15.0
    ) -> list[dict[str, Any]]:
        """Return the entries of ``event`` once there are ``times`` of them."""

        def enough() -> list[dict[str, Any]]:
            found = self.entries(tag, event)
            return found if len(found) >= times else []

        return eventually(enough, f"{times} x {event!r} in {tag!r} {self.events(tag)}", within)

    def close(self) -> None:
        self._redis.close()
