"""Starts, watches and ends what the examples need: a Redis, a Celery worker, a local site.

Everything here is a context manager: leaving the block ends what the block started, by process id,
also after an error or Ctrl-C. Nothing listens anywhere but on 127.0.0.1.
"""

from launch.broker import own_queue
from launch.errors import LaunchError
from launch.process import Child, ending_on_sigterm
from launch.redis import EmbeddedRedis, redis_for
from launch.worker import Worker

__all__ = [
    "Child",
    "EmbeddedRedis",
    "LaunchError",
    "Worker",
    "ending_on_sigterm",
    "own_queue",
    "redis_for",
]
