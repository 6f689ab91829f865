"""Celery's Redis result backend on a client that all greenlets share."""

from hybrid.backends.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
