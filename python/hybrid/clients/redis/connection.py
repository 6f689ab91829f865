"""One opening of a connection to Redis: created, used, ended once for a reason, never revived.

It is full duplex. Calls stand in a line. Their bytes are written at the end of the hub's turn,
whatever replies are outstanding, and one greenlet reads replies and gives each to the first call of
the line. A reply that belongs to no call, or a line that can get no more replies, ends it.

Who may switch: the greenlet that reads, while it waits for the socket, and the writer's own
(:mod:`hybrid.hubs.writer`). Nobody who posts a call does, and nobody is resumed from here: calls
are resolved, and their callers go on in the hub's next turn.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from time import monotonic
from typing import Any, Callable

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from hybrid.clients.redis.call import Call, State
from hybrid.clients.redis.connector import Opened
from hybrid.hubs.base import Alarm, Greenlet, Hub
from hybrid.hubs.writer import Writer

_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forget_all() -> None:
    for connection in list(_connections):
        connection.forget()


# What a forked child has of its parent's connections it neither writes to nor reads from.
os.register_at_fork(after_in_child=_forget_all)


class Connection:
    """One opened connection and its line of calls. Belongs to the hub's thread.

    Args:
        hub: The hub whose greenlets call.
        opened: The connected socket.
        ping: A ``PING`` as bytes.
        health_check_interval: Seconds of silence after which a ``PING`` is sent; 0 for never.
        on_turn: Called before each write, and may post calls.
        on_answers: Called when some calls have been answered.
        on_end: Called once, with the calls that have not been answered, in their order.
    """

    def __init__(
        self,
        hub: Hub,
        opened: Opened,
        *,
        ping: bytes,
        health_check_interval: float,
        on_turn: Callable[[], None],
        on_answers: Callable[[], None],
        on_end: Callable[[Connection, list[Call]], None],
    ) -> None:
        self._hub = hub
        self._opened = opened
        self._ping = ping
        self._on_answers = on_answers
        self._on_end = on_end
        #: Why it has ended.
        self.reason: BaseException | None = None
        #: Whether it ends as soon as its calls are answered.
        self._is_retiring = False
        #: Calls without an answer, and those of them that are not wholly written.
        self.calls: deque[Call] = deque()
        self._unsent: deque[Call] = deque()
        self._answered = 0
        #: Where the bytes of the line begin, in the stream of what has been posted.
        self.answered_bytes = 0
        self._heard_at = monotonic()
        self._timeout = opened.socket_timeout or 0
        self._interval = health_check_interval
        self._alarm: Alarm | None = None
        self.writer = Writer(hub, opened.sock, on_turn, self._mark_sent, self._break)
        self._is_reading = False
        self._reader: Greenlet = hub.spawn(self._read)
        _connections.add(self)
        self._watch()

    def post(self, call: Call) -> None:
        """Put ``call`` into the line; it is written at the end of this turn."""
        writer = self.writer
        call.sends += 1
        call.start = writer.posted
        call.end = call.start + len(call.data)
        if not self.calls:
            self._heard_at = monotonic()  # nothing was due before
        writer.post(call.data)
        self.calls.append(call)
        self._unsent.append(call)

    def retire(self, seconds: float) -> None:
        """End as soon as all calls have been answered, after ``seconds`` at the latest."""
        self._is_retiring = True
        self.writer.flush()
        if not self.calls:
            self.end(RedisConnectionError("The connection was given up"))
        else:
            late = RedisConnectionError("The connection was given up, and nothing came any more")
            self._hub.call_later(seconds, lambda: self.end(late))

    def end(self, reason: BaseException) -> None:
        """End for ``reason``. Does not switch; may be called anywhere in the hub's thread."""
        if self.reason is not None:
            return
        self.reason = reason
        self._mark_given()
        self.writer.fail(reason)
        if self._alarm is not None:
            self._alarm.cancel()
        self._hub.call_soon(self._stop)
        calls, self.calls = self.calls, deque()
        self._unsent.clear()
        self._on_end(self, list(calls))

    def forget(self) -> None:
        """End without a word to anybody: in a forked child, it is the parent's."""
        if self.reason is None:
            self.reason = RedisConnectionError("The connection is the parent's")
            self.calls.clear()
            self._unsent.clear()
            self.writer.forget(self.reason)
        self._opened.drop()

    def statistics(self) -> dict[str, int]:
        """Return what it has done and what is outstanding."""
        return {
            **self.writer.statistics(),
            "answered": self._answered,
            "unanswered": len(self.calls),
        }

    # -- callbacks: of the writer, and of the hub

    def _mark_sent(self) -> None:
        unsent, sent = self._unsent, self.writer.sent
        while unsent and unsent[0].end <= sent:
            call = unsent.popleft()
            call.state = State.SENT
            if not call.wants_replies:
                call.tell_sent()
        if unsent:
            self._mark_given()

    def _mark_given(self) -> None:
        given = self.writer.given
        for call in self._unsent:
            if call.start >= given:
                return
            call.state = State.SENT

    def _break(self, exc: BaseException) -> None:
        if self.reason is None:
            self.end(_as_redis_error(exc, "writing to"))

    def _watch(self) -> None:
        """Look for a reply that is late, and for a silence that is too long."""
        if self.reason is not None:
            return
        late = []
        silence = monotonic() - self._heard_at
        if self._timeout:
            if self.calls and silence >= self._timeout:
                self.end(RedisTimeoutError("Timeout reading from socket"))
                return
            late.append(self._timeout - silence if self.calls else self._timeout)
        if self._interval:
            if not self.calls and silence >= self._interval:
                # A socket that is dead without a word shows it when something is written.
                self.post(Call([(("PING",), {})], self._ping, on_end=_drop))
                silence = 0.0
            late.append(max(self._interval - silence, self._interval / 2))
        if late:
            self._alarm = self._hub.call_later(max(min(late), 0.01), self._watch)

    def _stop(self) -> None:
        # Whoever waits for the socket goes before it is closed: to eventlet, the next one with its
        # number would be the same.
        self.writer.stop()
        if self._is_reading:
            self._hub.interrupt(self._reader, _Stopped)
        self._opened.close()

    # -- in a greenlet of its own

    def _read(self) -> None:
        read, take = self._opened.read, self._take
        self._is_reading = True
        try:
            while self.reason is None:
                answered = self._answered
                read(take)
                self._heard_at = monotonic()
                if self._answered != answered:
                    self._on_answers()
                if self._is_retiring and not self.calls:
                    self.end(RedisConnectionError("The connection was given up"))
        except _Stopped:
            pass
        except Exception as exc:
            self.end(_as_redis_error(exc, "reading from"))
        except BaseException as exc:
            self.end(RedisConnectionError(f"the greenlet that reads was ended by {exc!r}"))
            raise
        finally:
            self._is_reading = False

    def _take(self, reply: Any) -> None:
        if isinstance(reply, RedisConnectionError):
            # The server is loading its data, say: to redis-py that is a lost connection, too.
            raise reply
        calls = self.calls
        if not calls:
            if self.reason is None:
                raise InvalidResponse(f"A reply that nobody has asked for: {reply!r:.200}")
            return
        call = calls[0]
        replies = call.replies
        if call.start >= self.writer.given:
            raise InvalidResponse(f"A reply before anything was asked for: {reply!r:.200}")
        replies.append(reply)
        if len(replies) == call.expected:
            calls.popleft()
            self._answered += 1
            self.answered_bytes = call.end
            call.resolve(State.ANSWERED)


class _Stopped(BaseException):
    """Ends the greenlet that reads from a connection which has ended."""


def _drop(_: Call) -> None:
    pass


def _as_redis_error(exc: BaseException, what: str) -> Any:
    if isinstance(exc, (RedisConnectionError, RedisTimeoutError)):
        return exc
    if isinstance(exc, RedisError):  # what came is not Redis's protocol, or not an answer to ours
        return RedisConnectionError(f"Error while {what} Redis: {exc}")
    return RedisConnectionError(f"Error while {what} Redis: {exc!r}")
