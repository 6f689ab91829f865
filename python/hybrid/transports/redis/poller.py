"""kombu's poller of channels, looking by the clock for what nobody has acknowledged."""

from __future__ import annotations

from time import monotonic
from typing import Any

from kombu.log import get_logger
from kombu.transport import redis
from redis.exceptions import ResponseError

from hybrid.transports.redis.ledger import passes, unanswered

logger = get_logger("kombu.transport.redis")

#: Seconds between two looks at what nobody has acknowledged, as kombu has them while it is idle.
RESTORE_INTERVAL = 10


class Poller(redis.MultiChannelPoller):  # type: ignore[misc]
    """kombu's poller, restoring what nobody has acknowledged by the clock, not by its turns."""

    def __init__(self) -> None:
        super().__init__()
        self._restored_at = monotonic()
        #: What Redis refuses for now, and why.
        self._refusals: dict[str, str] = {}

    def _on_connection_disconnect(self, connection: Any) -> None:
        super()._on_connection_disconnect(connection)
        # By now redis-py has closed the socket, so that kombu does not find its number and goes on
        # polling that: nobody's, which ends a worker on eventlet, or whoever's gets it next.
        for key, sock in list(self._chan_to_sock.items()):
            if sock.fileno() < 0:
                del self._chan_to_sock[key]
                channel, _, command = key
                for number, found in list(self._fd_to_chan.items()):
                    if found == (channel, command):
                        del self._fd_to_chan[number]
                        self.poller.unregister(number)

    def maybe_restore_messages(self) -> None:
        """Put messages back whose visibility timeout has passed, if it is time to look."""
        for channel in self._channels:
            if channel.active_queues:
                if unanswered:
                    channel.restore_unanswered()
                now = monotonic()
                # An option since kombu 5.7.
                interval = getattr(channel, "unacked_restore_interval", 0) or RESTORE_INTERVAL
                if now - self._restored_at >= interval:
                    self._restored_at = now
                    channel.qos._vrestore_count = 0  # kombu's own throttle counts calls
                    self._restore_messages()
                return

    def _restore_messages(self) -> None:
        what = "messages put back whose visibility timeout has passed"
        try:
            super().maybe_restore_messages()
        except ResponseError as exc:
            if not passes(exc):
                raise
            self._tell_once(what, exc)
        else:
            self._refusals.pop(what, None)

    def maybe_refresh_binding_expiry(self) -> None:
        """Have the tables of bindings last, and remove old ones, as kombu does since 5.7."""
        what = "the tables of bindings looked after"
        for channel in self._channels:
            try:
                channel.maybe_refresh_binding_expiry()
            except channel.connection_errors:
                logger.debug("Cannot look after the tables of bindings", exc_info=True)
            except ResponseError as exc:
                self._tell_once(what, exc)  # where that is all that is refused, work goes on
            else:
                self._refusals.pop(what, None)

    def _tell_once(self, what: str, exc: ResponseError) -> None:
        if self._refusals.get(what) != str(exc):
            self._refusals[what] = str(exc)
            logger.error(
                "Redis refuses to have %s (%s). The worker tries again until that has been set "
                "right",
                what,
                exc,
            )
