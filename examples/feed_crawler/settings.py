"""What the worker must know, handed to it in ``FEED_CRAWLER_*`` environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any

PREFIX = "FEED_CRAWLER_"


@dataclass(frozen=True)
class Settings:
    """The crawler's settings; every one has a default, so the worker also starts by hand.

    Attributes:
        broker: Any Celery broker URL.
        redis: Where the per-site limiter keeps its state.
        database: Path of the SQLite file.
        queue: The one queue that all tasks go through.
        site_rate: Requests per second that one site (scheme, host and port) gets at most.
        timeout: Seconds for one HTTP request.
        http: ``shared`` or ``per-slot``, see :mod:`feed_crawler.fetching`.
        articles: How many new entries of a feed are fetched in full.
    """

    broker: str = "redis://127.0.0.1:6379/0"
    redis: str = "redis://127.0.0.1:6379/0"
    database: str = "feeds.sqlite3"
    queue: str = "feed-crawler"
    site_rate: float = 5.0
    timeout: float = 10.0
    http: str = "shared"
    articles: int = 2

    @classmethod
    def from_env(cls) -> Settings:
        chosen: dict[str, Any] = {}
        for field in fields(cls):
            text = os.environ.get(PREFIX + field.name.upper())
            if text is not None:
                convert: Any = type(field.default)
                chosen[field.name] = convert(text)
        return cls(**chosen)

    def to_env(self) -> dict[str, str]:
        return {PREFIX + f.name.upper(): str(getattr(self, f.name)) for f in fields(self)}
