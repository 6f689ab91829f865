"""A Redis client that all greenlets share."""

from hybrid.clients.redis.client import Command, MultiplexedPipeline, MultiplexedRedis, shared

__all__ = ["Command", "MultiplexedPipeline", "MultiplexedRedis", "shared"]
