"""kombu's Redis transport, taking and settling many messages per round trip."""

from hybrid.transports.redis.channel import Channel
from hybrid.transports.redis.transport import Transport

__all__ = ["Channel", "Transport"]
