"""kombu's Redis transport on our channels."""

from __future__ import annotations

from time import monotonic
from typing import Any

from kombu.transport import redis

from hybrid import hubs
from hybrid.transports.redis.channel import Channel
from hybrid.transports.redis.poller import Poller


class Transport(redis.Transport):  # type: ignore[misc]
    """kombu's transport, opening channels that take many messages at a time."""

    Channel = Channel

    #: Seconds without a look at publish/subscribe while there are messages.
    LISTEN_EVERY = 0.05

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
        if hubs.running() is None:  # what is opened before the pool is started is kombu's
            self.Channel = redis.Channel
        self._listened_at = monotonic()

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver what there is, or wait for something at most ``timeout`` seconds.

        Raises:
            TimeoutError: Nothing has come.
        """
        # kombu does this only where no socket has anything to say, and never while it is full.
        self.cycle.maybe_restore_messages()
        channels = tuple(self.cycle._channels)
        got = False
        for channel in channels:
            if isinstance(channel, Channel) and channel.pop_many():
                got = True
        if not got:
            super().drain_events(connection, timeout)
            hub = hubs.running()
            if hub is not None and hub.can_park():
                hub.sleep(0)  # what has come starts before the server is asked for more
            return
        now = monotonic()
        if now - self._listened_at >= self.LISTEN_EVERY:
            self._listened_at = now
            for channel in channels:
                if isinstance(channel, Channel) and channel.active_fanout_queues:
                    self.cycle._register_LISTEN(channel)
                    if channel.subclient.connection.can_read(timeout=0):
                        channel._receive()
