"""What many greenlets write to one socket: once per turn of the hub, in order, never mixed.

Whoever writes hands in its bytes and goes on. At the end of the hub's turn everything is sent in
one system call that cannot wait. What the socket does not take is sent by a greenlet of the
writer's own, so nobody's limit can end a write in the middle.

Who may switch: only who waits in :meth:`Writer.wait`, and the writer's own greenlet.
"""

from __future__ import annotations

import ssl
from collections import deque
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
        sock: The socket, which has no timeout. Whoever reads it may wait for it meanwhile.
        on_turn: Called before each send; what it posts is sent as well.
        on_sent: Called after each send.
        on_broken: Called once, with what broke the connection.
    """

    def __init__(
        self,
        hub: Hub,
        sock: Any,
        on_turn: Callable[[], None],
        on_sent: Callable[[], None],
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._hub = hub
        self._sock = sock
        self._is_tls = hasattr(sock, "pending")
        self._on_turn = on_turn
        self._on_sent = on_sent
        self._on_broken = on_broken
        #: Bytes handed in so far; how many of them the socket has taken; and how many it was
        #: given, of which a TLS socket may have passed some on without telling so.
        self.posted = 0
        self.sent = 0
        self.given = 0
        self._queue: list[bytes] = []
        self._rest = memoryview(b"")
        #: Who waits, each for a number of bytes to be sent.
        self._waiting: deque[tuple[int, Place]] = deque()
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
            self._hub.call_soon(self._end_turn)

    def schedule(self) -> None:
        """Call ``on_turn`` at the end of this turn, whether or not something is posted."""
        if not self._is_scheduled and self._error is None:
            self._is_scheduled = True
            self._hub.call_soon(self._end_turn)

    def flush(self) -> None:
        """Send what has been posted now, as far as the socket takes it. Never waits."""
        if self._blocked is not None or self._error is not None:
            return  # the greenlet that writes goes on with it
        self._on_turn()
        self._take()
        if not self._rest:
            return
        try:
            is_sent = self._send_now()
        except Exception as exc:
            self.fail(exc)
            return
        if not is_sent and self._error is None:
            self._blocked = self._hub.spawn(self._send_blocked)

    def wait(self, seconds: float | None = None) -> None:
        """Return when everything has been sent that was posted before this call.

        Raises:
            socket.timeout: Not in time.
            Exception: What broke the connection.
        """
        self.check()
        if self.sent < self.posted:
            place = Place(self._hub)
            self._waiting.append((self.posted, place))
            place.wait(seconds)

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
        waiting, self._waiting = self._waiting, deque()
        for _, place in waiting:
            place.fail(copied(exc))
        self._on_broken(exc)

    def forget(self, exc: BaseException) -> None:
        """As :meth:`fail`, without a word to anybody: in a forked child, they are the parent's."""
        self._error = exc
        self._queue.clear()
        self._rest = memoryview(b"")
        self._waiting.clear()

    def stop(self) -> None:
        """End the greenlet that waits for the socket. For the hub, once :meth:`fail` was called."""
        blocked, self._blocked = self._blocked, None
        if blocked is not None and not blocked.dead:
            self._hub.interrupt(blocked, _Stopped)

    def statistics(self) -> dict[str, int]:
        """Return bytes and writes so far, the largest write, and the bytes that wait."""
        return {
            "bytes": self.sent,
            "writes": self._writes,
            "largest": self._largest,
            "unsent": self.posted - self.sent,
        }

    # -- in the hub

    def _end_turn(self) -> None:
        self._is_scheduled = False
        self.flush()

    def _take(self) -> None:
        queue = self._queue
        if queue:
            self._queue = []
            self._rest = memoryview(queue[0] if len(queue) == 1 else b"".join(queue))

    def _send_now(self) -> bool:
        """Send what the socket takes; tell whether that was all."""
        sock = self._sock
        # Not `settimeout(0)`: with that, eventlet's TLS sockets switch. Nobody else runs before
        # the socket waits again, for whoever reads from it.
        sock.setblocking(False)
        try:
            while self._rest:
                self._send()
        except _FULL:
            pass
        finally:
            sock.setblocking(True)
        self._tell()
        return not self._rest

    def _send(self) -> None:
        chunk = self._rest[:_AT_ONCE]
        self.given = self.sent + len(chunk)
        try:
            sent = self._sock.send(chunk)
        except BaseException:
            if not self._is_tls:
                self.given = self.sent
            raise
        self.given = self.sent + sent
        self._rest = self._rest[sent:]
        self.sent += sent
        self._writes += 1
        if sent > self._largest:
            self._largest = sent

    def _tell(self) -> None:
        self._on_sent()
        while self._waiting and self._waiting[0][0] <= self.sent:
            self._waiting.popleft()[1].tell()

    # -- in a greenlet of its own

    def _send_blocked(self) -> None:
        """Send while the socket is full, waiting for it."""
        try:
            while self._error is None:
                while self._rest:
                    with suppress(*_FULL):
                        self._send()
                        self._tell()
                self._on_turn()
                self._take()
                if not self._rest:
                    return
        except _Stopped:
            pass
        except Exception as exc:
            self.fail(exc)
        except BaseException as exc:
            self.fail(ConnectionError(f"the greenlet that writes was ended by {exc!r}"))
            raise
        finally:
            self._blocked = None


class _Stopped(BaseException):
    """Ends the greenlet that waits for a socket which is given up."""
