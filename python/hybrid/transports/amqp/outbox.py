"""What a connection to an AMQP broker writes: once per turn of the hub, in order, never mixed.

Frames of one method and its content follow each other in the stream (AMQP 0-9-1 section 2.3.5.2).
Every write therefore goes through one queue. At the end of the hub's turn everything in it is sent
at once, with the acknowledgements of that turn behind it.

Who may switch: whoever waits until its frames have been sent, in :meth:`Outbox.wait`; and the
outbox's own greenlet, while the socket is full. Sending in the hub does not switch. Whoever is
ended while it waits has abandoned the wait alone: its frames are sent whole, in their order.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from contextlib import suppress
from typing import Any, Callable, Protocol

from hybrid.hubs.base import Hub
from hybrid.hubs.parking import Place, copied

#: What says that a socket takes no more for now.
_FULL = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Acker(Protocol):
    """A channel that has something to acknowledge."""

    def take_acks(self) -> bytes:
        """Return the frames that acknowledge what has been settled since the last call."""


class Outbox:
    """The writing side of one connection. Belongs to the hub's thread.

    Args:
        hub: The hub whose greenlets write.
        get_socket: Returns the connected socket.
        on_sent: Called after each send.
        on_broken: Called once, with what broke the connection.
    """

    def __init__(
        self,
        hub: Hub,
        get_socket: Callable[[], Any],
        on_sent: Callable[[], None],
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._hub = hub
        self._get_socket = get_socket
        self._on_sent = on_sent
        self._on_broken = on_broken
        self._queue: list[bytes] = []
        self._ackers: list[Acker] = []
        self._waiting: list[Place] = []
        #: What is being sent, and who waits for all of it.
        self._sending = memoryview(b"")
        self._sending_for: list[Place] = []
        self._is_scheduled = False
        self._is_blocked = False
        self._error: BaseException | None = None

    # -- for those who write

    def post(self, data: bytes) -> None:
        """Send ``data``, which is whole frames, at the end of this turn.

        Raises:
            Exception: What broke the connection.
        """
        self.check()
        self._queue.append(data)
        self._schedule()

    def expect_acks(self, acker: Acker) -> None:
        """Send what ``acker`` has to acknowledge at the end of this turn.

        Raises:
            Exception: What broke the connection.
        """
        self.check()
        if acker not in self._ackers:
            self._ackers.append(acker)
            self._schedule()

    def wait(self, timeout: float | None = None) -> None:
        """Return when everything has been sent that was to be sent before this call.

        In the hub itself, which cannot wait, it is sent as far as the socket takes it.

        Args:
            timeout: Seconds after which the connection is given up, as half a frame may be out.

        Raises:
            Exception: What broke the connection; :exc:`socket.timeout` after the timeout.
        """
        if not self._hub.can_park():
            self.flush()
            self.check()
            return
        self.check()
        place = Place(self._hub)
        self._waiting.append(place)
        self._schedule()
        alarm = None
        if timeout is not None:
            alarm = self._hub.call_later(timeout, lambda: self._expire(place))
        try:
            place.wait()
        finally:
            if alarm is not None:
                alarm.cancel()

    def write(self, data: bytes, timeout: float | None = None) -> None:
        """Send ``data``, which is whole frames, and return when it has been sent.

        Raises:
            Exception: As for :meth:`wait`.
        """
        self.post_behind_acks(data)
        self.wait(timeout)

    def post_behind_acks(self, data: bytes) -> None:
        """Send ``data``, which is whole frames, at the end of this turn.

        It goes behind the acknowledgements of this turn, since it may close their channel.

        Raises:
            Exception: What broke the connection.
        """
        self.check()
        self._collect_acks()
        self.post(data)

    def check(self) -> None:
        """Raise what broke the connection, if something did."""
        if self._error is not None:
            raise copied(self._error)

    def fail(self, exc: BaseException) -> None:
        """Take note that the connection is broken: nothing is sent any more."""
        if self._error is not None:
            return
        self._error = exc
        self._queue.clear()
        self._ackers.clear()
        places = [*self._sending_for, *self._waiting]
        self._sending, self._sending_for, self._waiting = memoryview(b""), [], []
        for place in places:
            place.fail(copied(exc))
        self._on_broken(exc)

    def statistics(self) -> dict[str, int | float | str]:
        """Return how much waits to be sent, and how many wait for that."""
        return {
            "frames": len(self._queue),
            "bytes": sum(map(len, self._queue)) + len(self._sending),
            "waiting": len(self._sending_for) + len(self._waiting),
            "is_blocked": int(self._is_blocked),
        }

    # -- in the hub

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._hub.call_soon(self.flush)

    def flush(self) -> None:
        """Send what the socket takes now, without switching."""
        self._is_scheduled = False
        if self._is_blocked or self._error is not None:
            return  # the greenlet that writes goes on with it
        if not self._sending:
            self._take_turn()
        try:
            is_sent = self._send_now()
        except Exception as exc:
            self.fail(exc)
            return
        if is_sent:
            self._tell_senders()
        else:
            self._is_blocked = True
            self._hub.spawn(self._send_blocked)

    def _collect_acks(self) -> None:
        """Put the acknowledgements of this turn before what is written next."""
        if self._ackers:
            ackers, self._ackers = self._ackers, []
            self._queue += [acker.take_acks() for acker in ackers]

    def _take_turn(self) -> None:
        self._collect_acks()
        queue, self._queue = self._queue, []
        self._sending = memoryview(queue[0] if len(queue) == 1 else b"".join(queue))
        self._sending_for, self._waiting = self._waiting, []

    def _send_now(self) -> bool:
        """Send what the socket takes; tell whether that was all."""
        if not self._sending:
            return True
        sock = self._get_socket()
        timeout = sock.gettimeout()
        # Nobody else runs before it is what it was: a send that must not wait does not switch.
        sock.settimeout(0)
        try:
            while self._sending:
                sent = sock.send(self._sending)
                if not sent:
                    return False
                self._sending = self._sending[sent:]
        except _FULL:
            return False
        finally:
            sock.settimeout(timeout)
        self._on_sent()
        return True

    def _tell_senders(self) -> None:
        places, self._sending_for = self._sending_for, []
        for place in places:
            place.tell()
        if self._queue or self._ackers or self._waiting:
            self._schedule()

    def _expire(self, place: Place) -> None:
        if not place.is_told:
            self.fail(socket.timeout("timed out"))

    # -- in a greenlet of its own

    def _send_blocked(self) -> None:
        """Send while the socket is full, waiting for it."""
        try:
            while True:
                while self._sending:
                    # The timeout on the socket is somebody else's, who reads.
                    with suppress(socket.timeout, *_FULL):
                        sent = self._get_socket().send(self._sending)
                        self._sending = self._sending[sent:]
                        self._on_sent()
                self._tell_senders()
                self._take_turn()
                if not self._sending and not self._sending_for:
                    return
        except Exception as exc:
            self.fail(exc)
        finally:
            self._is_blocked = False
            # Also what this greenlet was ended with: half a frame may be out.
            if self._sending or self._queue or self._ackers or self._waiting:
                self._schedule()


class Collector:
    """Stands in for the socket where py-amqp writes frames, and keeps them."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()

    def write(self, data: Any) -> None:
        """Keep ``data``, which py-amqp may overwrite afterwards."""
        self._chunks.append(bytes(data))

    def take(self) -> bytes:
        """Return what was written since the last call."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        return data
