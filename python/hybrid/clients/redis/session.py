"""What a client has to say to its server, over as many connections as it takes.

There is one connection at a time, opened when there is something to send, by a greenlet of the
session's own. What becomes of a call whose connection is lost is the call's own affair
(:meth:`~hybrid.clients.redis.call.Call.may_be_sent`): it goes to the head of the line of the next
connection, or its caller is told.

Who may switch: whoever calls :meth:`Session.admit` while very much is outstanding, and the greenlet
that opens connections. All else goes on at once.
"""

from __future__ import annotations

import os
import weakref
from collections import Counter, deque
from time import monotonic
from typing import Any, Callable

from redis.exceptions import ConnectionError as RedisConnectionError

from hybrid.clients.redis.call import Call, logger
from hybrid.clients.redis.connection import Connection
from hybrid.clients.redis.connector import Connector, Opened
from hybrid.hubs.base import Hub
from hybrid.hubs.parking import ParkingLot, Place, copied

#: Calls, and bytes of calls, without an answer; whoever comes with more waits.
CALLS, BYTES = 10_000, 2**24

#: Seconds for which what survives a loss is kept while the server cannot be reached.
PATIENCE = 600.0
#: Seconds between two attempts to reach it, at most, if nobody waits.
PAUSE = 5.0
#: Seconds that a connection lasts to read what it was asked for, once nobody uses it any more.
LINGER = 5.0

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _forget_all() -> None:
    for session in list(_sessions):
        session.forget()


# What its parent has not sent yet is none of a forked child's business.
os.register_at_fork(after_in_child=_forget_all)


class Session:
    """The line of calls of one client. Belongs to the hub's thread.

    Args:
        hub: The hub whose greenlets call.
        connector: Opens connections.
    """

    def __init__(self, hub: Hub, connector: Connector) -> None:
        self._hub = hub
        self._connector = connector
        #: Returns commands as bytes.
        self.pack = connector.pack
        #: Whether replies are text.
        self.decodes = connector.decodes
        self._ping = connector.pack([("PING",)])
        #: How often this process has been forked off another.
        self._forks = 0
        self._connection: Connection | None = None
        #: Has a call sent at the end of this turn, or as soon as there is a connection.
        self.post: Callable[[Call], None] = self._post_later
        #: Calls for the next connection.
        self._pending: deque[Call] = deque()
        self._is_opening = False
        #: Where the greenlet that opens waits between two attempts.
        self._pause: Place | None = None
        #: What is asked at the end of this turn for calls.
        self._collectors: list[Callable[[], None]] = []
        self._acknowledgers = ParkingLot(hub)
        self._others = ParkingLot(hub)
        #: The credentials that are to be used from now on.
        self._login: bytes | None = None
        #: Whether there is nobody any more who could call.
        self._is_over = False
        self._opened = 0
        self._ended: Counter[str] = Counter()
        _sessions.add(self)

    # -- for callers

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def admit(self, is_urgent: bool = False) -> None:
        """Wait until a call may be posted. Never call it in the hub.

        Args:
            is_urgent: Whether it is let in before others: an acknowledgement, say.
        """
        lot = self._acknowledgers if is_urgent else self._others
        if not (lot.parked or self._is_full()):
            return
        lot.park()
        while self._is_full():
            lot.park()

    def collect(self, collector: Callable[[], None]) -> None:
        """Call ``collector`` before the next write; it posts calls, and does not switch."""
        self._collectors.append(collector)
        if len(self._collectors) == 1:
            if self._connection is not None:
                writer = self._connection.writer
                writer.on_turn = self._collect
                writer.schedule()
            else:
                self._hub.call_soon(self._collect)

    def flush(self) -> None:
        """Send what has been posted now, as far as the socket takes it. Never waits."""
        if self._connection is not None:
            self._connection.writer.flush()

    def authenticate(self, *credentials: str) -> None:
        """Authenticate anew. Thread-safe."""
        self._login = self.pack([("AUTH", *credentials)])
        self._hub.call_soon_threadsafe(self._authenticate)

    def finish(self) -> None:
        """As :meth:`close`, with the connection that is being opened, too. Thread-safe."""
        self._is_over = True
        self.close()

    def close(self) -> None:
        """Give the connection up, when it has brought the answers. Thread-safe."""
        if self._hub.in_thread():
            self._close()
        else:
            self._hub.call_soon_threadsafe(self._close)

    def forget(self) -> None:
        """Drop what is the parent's, in a forked child."""
        self._forks += 1
        self._connection, self.post = None, self._post_later
        self._pending.clear()
        self._collectors.clear()
        self._is_opening, self._pause = False, None

    def statistics(self) -> dict[str, Any]:
        """Return what is outstanding, and how connections have ended."""
        return {
            "opened": self._opened,
            "ended": dict(self._ended),
            "pending": len(self._pending),
            "waiting": len(self._acknowledgers) + len(self._others),
            "connection": None if self._connection is None else self._connection.statistics(),
        }

    # -- without switching

    def _is_full(self) -> bool:
        connection = self._connection
        if connection is None:
            return len(self._pending) >= CALLS
        size = connection.writer.posted - connection.answered_bytes
        return len(self._pending) + len(connection.calls) >= CALLS or size >= BYTES

    def _admit_more(self) -> None:
        if not (self._acknowledgers.parked or self._others.parked) or self._is_full():
            return
        connection = self._connection
        room = CALLS - len(self._pending) - (len(connection.calls) if connection else 0)
        first = min(room, len(self._acknowledgers))
        self._acknowledgers.unpark(first)
        self._others.unpark(room - first)

    def _post_later(self, call: Call) -> None:
        self._pending.append(call)
        self._open_soon()

    def _collect(self) -> None:
        if self._connection is not None:
            self._connection.writer.on_turn = None
        if self._collectors:
            collectors, self._collectors = self._collectors, []
            for collector in collectors:
                collector()

    def _open_soon(self) -> None:
        if not self._is_opening:
            self._is_opening = True
            self._hub.spawn(self._open)
        elif self._pause is not None:
            self._pause.tell()

    def _lose(self, connection: Connection, calls: list[Call]) -> None:
        """Sort the calls of a connection that has ended."""
        reason = connection.reason
        assert reason is not None
        self._ended[type(reason).__name__] += 1
        if self._connection is connection:
            self._connection, self.post = None, self._post_later
        again: list[Call] = []
        for call in calls:
            if call.may_be_sent():
                call.requeue()
                again.append(call)
            else:
                call.fail(copied(reason))
        self._pending.extendleft(reversed(again))
        self._collect()
        if self._pending:
            self._open_soon()
        else:
            self._admit_more()

    def _authenticate(self) -> None:
        data, self._login = self._login, None
        connection = self._connection
        if data is not None and connection is not None:
            # Of no use to the next connection, which asks for credentials itself.
            connection.post(Call([(("AUTH",), {})], data))

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        self.post = self._post_later
        if connection is not None:
            connection.retire(LINGER)

    # -- in a greenlet of its own

    def _open(self) -> None:
        """Open a connection, and post what waits for it."""
        forks = self._forks
        failures, failed_at = 0, 0.0
        try:
            while self._pending and forks == self._forks:
                try:
                    opened = self._connector.open()
                except Exception as exc:
                    failures += 1
                    failed_at = failed_at or monotonic()
                    self._fail(exc, is_over=monotonic() - failed_at > PATIENCE)
                    if self._pending:
                        self._wait(min(PAUSE, 0.05 * 2**failures))
                    continue
                if forks == self._forks:
                    self._start(opened)
                else:
                    opened.close()
                return
        except BaseException as exc:
            self._fail(RedisConnectionError(f"The greenlet that connects was ended by {exc!r}"))
            raise
        finally:
            if forks == self._forks:
                self._is_opening = False
                if self._pending and self._connection is None:
                    self._open_soon()

    def _wait(self, seconds: float) -> None:
        self._pause = Place(self._hub)
        try:
            self._pause.wait(seconds)
        except TimeoutError:
            pass
        finally:
            self._pause = None

    def _fail(self, exc: Exception, is_over: bool = False) -> None:
        """Tell those who wait that there is no connection. What nobody waits for is kept."""
        pending, self._pending = self._pending, deque()
        for call in pending:
            if call.is_awaited or is_over or not call.survives_loss:
                call.fail(copied(exc))
            else:
                self._pending.append(call)
        if is_over:
            logger.error("Redis cannot be reached: %r", exc)
        self._admit_more()

    def _start(self, opened: Opened) -> None:
        self._opened += 1
        connection = self._connection = Connection(
            self._hub,
            opened,
            ping=self._ping,
            health_check_interval=self._connector.health_check_interval,
            on_turn=self._collect,
            on_answers=self._admit_more,
            on_end=self._lose,
        )
        self.post = connection.post
        pending, self._pending = self._pending, deque()
        for call in pending:
            if call.is_abandoned and not call.survives_loss:
                continue  # nobody wants it any more
            connection.post(call)
        connection.writer.flush()
        if self._is_over:
            self._close()
