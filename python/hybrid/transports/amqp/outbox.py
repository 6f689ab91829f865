"""What a connection to an AMQP broker writes: whole frames, and acknowledgements behind them.

Frames of one method and its content follow each other in the stream (AMQP 0-9-1 section 2.3.5.2).
Every write therefore goes through one :class:`~hybrid.hubs.writer.Writer`, whole frames at a time.
What has been settled in a turn of the hub is acknowledged together, at its end.

Who may switch: as for the writer.
"""

from __future__ import annotations

from typing import Any, Callable, Protocol

from hybrid.hubs.base import Hub
from hybrid.hubs.writer import Writer


class Acker(Protocol):
    """A channel that has something to acknowledge."""

    def take_acks(self) -> bytes:
        """Return the frames that acknowledge what has been settled since the last call."""


class Outbox(Writer):
    """The writing side of one connection. Belongs to the hub's thread.

    Its socket is set when it is connected.

    Args:
        hub: The hub whose greenlets write.
        on_sent: Called after each send.
        on_broken: Called once, with what broke the connection.
    """

    def __init__(
        self,
        hub: Hub,
        on_sent: Callable[[], None],
        on_broken: Callable[[BaseException], None],
    ) -> None:
        super().__init__(hub, None, self._post_acks, on_sent, on_broken, has_timeouts=True)
        self._ackers: list[Acker] = []

    def expect_acks(self, acker: Acker) -> None:
        """Send what ``acker`` has to acknowledge at the end of this turn.

        Raises:
            Exception: What broke the connection.
        """
        self.check()
        if acker not in self._ackers:
            self._ackers.append(acker)
            self.schedule()

    def post_behind_acks(self, data: bytes) -> None:
        """Send ``data``, which is whole frames, at the end of this turn.

        It goes behind the acknowledgements of this turn, since it may close their channel.

        Raises:
            Exception: What broke the connection.
        """
        self.check()
        self._post_acks()
        self.post(data)

    def write(self, data: bytes, seconds: float | None = None) -> None:
        """Send ``data``, which is whole frames, and return when it has been sent.

        Raises:
            Exception: As for :meth:`wait`.
        """
        self.post_behind_acks(data)
        self.wait(seconds)

    def fail(self, exc: BaseException) -> None:
        """Take note that the connection is broken: nothing is sent any more."""
        self._ackers.clear()
        super().fail(exc)

    def _post_acks(self) -> None:
        if self._ackers:
            ackers, self._ackers = self._ackers, []
            for acker in ackers:
                self.post(acker.take_acks())


class Collector:
    """Stands in for the socket where py-amqp writes frames, and keeps them."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def write(self, data: Any) -> None:
        """Keep ``data``, which py-amqp may overwrite afterwards."""
        self._chunks.append(bytes(data))

    def take(self) -> bytes:
        """Return what was written since the last call."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        return data
