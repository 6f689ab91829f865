"""What is replaced of redis-py."""

from __future__ import annotations

from hybrid.patches import Patch

PUBSUB_EXECUTE = Patch(
    "redis.client.PubSub()._execute",
    "a connection that listens for results ends when it is lost; the next one is another object",
    since="0.1",
)
