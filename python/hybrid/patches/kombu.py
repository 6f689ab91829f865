"""What is replaced of kombu."""

from __future__ import annotations

from hybrid.patches import Patch

TRANSPORTS = Patch(
    "kombu.transport.TRANSPORT_ALIASES",
    "many messages travel per round trip",
    since="0.1",
)
# kombu has no public way to make it look a name up again, which it has done by now.
TRANSPORTS_FOUND = Patch(
    "kombu.transport._transport_cache",
    "kombu looks transports up again that are left to it",
    since="0.1",
)
EVENTS_PRODUCER = Patch(
    "kombu.messaging.Producer().__class__", "events are encoded in Rust", since="0.1"
)
POOLS_PRODUCER = Patch(
    "kombu.pools.ProducerPool().Producer",
    "messages are encoded in Rust where each has a connection of its own",
    since="0.1",
)
CONNECTION_ATTEMPTS = Patch(
    "kombu.connection.Connection()._attempts",
    "of all that find one connection broken, one makes it anew",
    since="0.1",
    is_new=True,
)
CLOSE_POOL = Patch(
    "kombu.resource.Resource().force_close_all",
    "a forked child does not close the connections of its parent",
    since="0.1",
)
CONNECTION = Patch(
    "kombu.connection.Connection().__class__",
    "one connection is used by all greenlets that publish, and made anew by one of them",
    since="0.1",
)
