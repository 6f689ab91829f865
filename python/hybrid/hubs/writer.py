"""What many greenlets write to one socket: once per turn of the hub, in order, never mixed.

Whoever writes hands in its bytes and goes on. At the end of the hub's turn everything is sent in
one system call that cannot wait. What the socket does not take is sent by a greenlet of the
writer's own, so nobody's limit can end a write in the middle. Whoever is ended while it waits has
abandoned the wait alone: its bytes are sent whole, in their order.

Who may switch: only who waits in :meth:`Writer.wait`, and the writer's own greenlet.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import Any, Callable

from hybrid.hubs.base import Greenlet, Hub
from hybrid.hubs.parking import Place, copied

#: What says that a socket takes no more for now.
_FULL = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

#: Bytes given to a socket at once.
_AT_ONCE = 2**20


class Writer:
    """The writing side of one connected socket. Belongs to the hub's thread.

    Args:
        hub: The hub whose greenlets write.
        sock: The socket; ``None`` if it is not connected yet. Whoever reads from it may wait for
            it meanwhile.
        on_turn: Called before each send, while it is set; what it posts is sent as well.
        on_sent: Called after each send.
        on_broken: Called once, with what broke the connection.
        has_timeouts: Whether who reads from the socket sets a timeout on it.
    """

    def __init__(
        self,
        hub: Hub,
        sock: Any,
        on_turn: Callable[[], None] | None,
        on_sent: Callable[[], None],
        on_broken: Callable[[BaseException], None],
        has_timeouts: bool = False,
    ) -> None:
        self._hub = hub
        #: Where it writes to.
        self.sock = sock
        self.on_turn = on_turn
        self._on_sent = on_sent
        self._on_broken = on_broken
        self._has_timeouts = has_timeouts
        #: Bytes handed in so far; how many of them the socket has taken; and how many it was
        #: given, of which a TLS socket may have passed some on without telling so.
        self.posted = 0
        self.sent = 0
        self.given = 0
        self._queue: list[bytes] = []
        #: Who waits for what is posted in this turn.
        self._waiting: list[Place] = []
        #: What is being sent, and who waits for all of it.
        self._rest = memoryview(b"")
        self._waiting_for_rest: list[Place] = []
        self._is_scheduled = False
        self._error: BaseException | None = None
        #: The greenlet that writes while the socket is full.
        self._blocked: Greenlet | None = None
        self._writes = 0
        self._largest = 0

    # -- for those who write

    def post(self, data: bytes) -> None:
        """Send ``data`` at the end of this turn.

        Raises:
            Exception: What broke the connection.
        """
        if self._error is not None:
            self.check()
        self._queue.append(data)
        self.posted += len(data)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._hub.call_soon(self.flush)

    def schedule(self) -> None:
        """Call ``on_turn`` at the end of this turn, whether or not something is posted."""
        if not self._is_scheduled and self._error is None:
            self._is_scheduled = True
            self._hub.call_soon(self.flush)

    def flush(self) -> None:
        """Send what has been posted now, as far as the socket takes it. Never waits."""
        if self._blocked is not None or self._error is not None:
            self._is_scheduled = False
            return  # it goes on when the greenlet that writes has ended
        self._is_scheduled = True  # what is posted here goes along
        try:
            if self.on_turn is not None:
                self.on_turn()
        finally:
            self._is_scheduled = False
        queue = self._queue
        if queue:
            self._queue = []
            if self._rest:  # left by a greenlet that was ended
                queue.insert(0, bytes(self._rest))
            self._rest = memoryview(queue[0] if len(queue) == 1 else b"".join(queue))
        if self._waiting:
            self._waiting_for_rest += self._waiting
            self._waiting = []
        if self._rest:
            sock = self.sock
            try:
                timeout = sock.gettimeout() if self._has_timeouts else None
                # Not `settimeout(0)`: with that, eventlet's TLS sockets switch. Nobody else runs
                # before the socket is as it was, for whoever reads from it.
                sock.setblocking(False)
                try:
                    self._send()
                except _FULL:
                    pass
                finally:
                    sock.setblocking(True)
                    if timeout is not None:
                        sock.settimeout(timeout)
            except Exception as exc:
                self.fail(exc)
                return
        if self._rest:
            self._blocked = self._hub.spawn(self._send_blocked)
        elif self._waiting_for_rest:
            self._tell()

    def wait(self, seconds: float | None = None) -> None:
        """Return when everything has been sent that is to be sent in this turn, or was before.

        In the hub itself, which cannot wait, it is sent as far as the socket takes it.

        Args:
            seconds: After these the connection is given up, as half of something may be out.

        Raises:
            Exception: What broke the connection; :exc:`socket.timeout` when it was given up.
        """
        hub = self._hub
        if not hub.can_park():
            self.flush()
            self.check()
            return
        if self._error is not None:
            self.check()
        place = Place(hub)
        self._waiting.append(place)
        self.schedule()
        if seconds is None:
            place.wait()
            return
        alarm = hub.call_later(seconds, lambda: self._expire(place))
        try:
            place.wait()
        finally:
            alarm.cancel()

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
        self._rest = memoryview(b"")
        places = [*self._waiting_for_rest, *self._waiting]
        self._waiting_for_rest, self._waiting = [], []
        for place in places:
            place.fail(copied(exc))
        self._on_broken(exc)

    def forget(self, exc: BaseException) -> None:
        """As :meth:`fail`, without a word to anybody: in a forked child, they are the parent's."""
        self._error = exc
        self._queue.clear()
        self._rest = memoryview(b"")
        self._waiting_for_rest.clear()
        self._waiting.clear()

    def stop(self) -> None:
        """End the greenlet that waits for the socket. For the hub, once :meth:`fail` was called."""
        blocked, self._blocked = self._blocked, None
        if blocked is not None and not blocked.dead:
            self._hub.interrupt(blocked, _Stopped)

    def statistics(self) -> dict[str, int]:
        """Return bytes and writes so far, the largest write, and what and who waits."""
        return {
            "bytes": self.sent,
            "writes": self._writes,
            "largest": self._largest,
            "unsent": self.posted - self.sent,
            "waiting": len(self._waiting_for_rest) + len(self._waiting),
            "is_blocked": int(self._blocked is not None),
        }

    # -- in the hub

    def _send(self) -> None:
        """Send what is left, until the socket is full."""
        while self._rest:
            chunk = self._rest[:_AT_ONCE]
            self.given = self.sent + len(chunk)
            try:
                sent: int = self.sock.send(chunk)
            except BaseException:
                if not hasattr(self.sock, "pending"):  # no TLS
                    self.given = self.sent
                raise
            if not sent:
                return  # so gevent's TLS sockets say that they are full
            self.given = self.sent + sent
            self._rest = self._rest[sent:]
            self.sent += sent
            self._writes += 1
            if sent > self._largest:
                self._largest = sent
            self._on_sent()

    def _tell(self) -> None:
        if self._waiting_for_rest and not self._rest:
            places, self._waiting_for_rest = self._waiting_for_rest, []
            for place in places:
                place.tell()

    def _expire(self, place: Place) -> None:
        if not place.is_told:
            self.fail(socket.timeout("timed out"))

    # -- in a greenlet of its own

    def _send_blocked(self) -> None:
        """Send while the socket is full, waiting for it."""
        try:
            while self._rest:
                # The timeout on the socket is that of who reads.
                with suppress(socket.timeout, *_FULL):
                    self._send()
            self._tell()
        except _Stopped:
            pass
        except Exception as exc:
            self.fail(exc)
        finally:
            self._blocked = None
            # For what has come meanwhile; and if somebody has ended this greenlet, half of
            # something may be out.
            self.schedule()


class _Stopped(BaseException):
    """Ends the greenlet that waits for a socket which is given up."""
