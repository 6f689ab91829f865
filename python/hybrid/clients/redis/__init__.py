"""A Redis client that all greenlets share."""

from hybrid.clients.redis.call import Call, Command
from hybrid.clients.redis.client import MultiplexedRedis, shared
from hybrid.clients.redis.pipeline import MultiplexedPipeline

__all__ = ["Call", "Command", "MultiplexedPipeline", "MultiplexedRedis", "shared"]
