"""Methods that the broker answers, from their callers to their answers.

AMQP numbers no answers: what comes belongs to whoever asked first (0-9-1 section 2.2.2). So one
call of a channel is in flight at a time, and the others wait behind it, in order. A caller that is
ended has *abandoned* its call. One that has not been sent is dropped; one in flight stays there
until its answer has come, which nobody else gets, and then what it did is undone where nobody could
use it. Ending the channel instead, as aiormq does, would cost the deliveries and confirmations that
the channel carries; and an answer that has to be waited for anyway costs one entry here.

Who may switch: callers, while they wait in :meth:`Calls.ask`. Whoever reads answers and sends the
next call without switching, so that no limit can strike in between.
"""

from __future__ import annotations

import socket
from collections import deque
from enum import Enum, auto
from typing import Any, Callable, Protocol

from amqp import spec

from hybrid.hubs.base import Hub
from hybrid.hubs.parking import Place, copied

#: Class and method of AMQP.
Method = tuple[int, int]
#: What is sent although whoever wanted it has gone: the broker keeps what is not closed.
_ENDS = frozenset({spec.Channel.Close, spec.Connection.Close})


class CallState(Enum):
    """What has become of a call."""

    WAITING = auto()
    SENT = auto()
    ANSWERED = auto()
    FAILED = auto()


class Call:
    """One method and its answer.

    Args:
        hub: The hub of whoever calls.
        method: What is called.
        data: Its frames.
        answers: The methods that answer it.
        on_answer: Called with the answer and its arguments as soon as it has been read, before
            whatever the broker sends next. It cannot wait.
        undo: Called with the answer and its arguments if the caller has gone. It cannot wait.
    """

    __slots__ = ("answer", "answers", "data", "method", "on_answer", "place", "state", "undo")

    def __init__(
        self,
        hub: Hub,
        method: Method,
        data: bytes,
        answers: list[Method],
        on_answer: Callable[[Method, list[Any]], None] | None = None,
        undo: Callable[[Method, list[Any]], None] | None = None,
    ) -> None:
        self.method = method
        self.data = data
        self.answers = answers
        self.on_answer = on_answer
        self.undo = undo
        self.place = Place(hub)
        self.state = CallState.WAITING
        #: The method that has answered it, and its arguments.
        self.answer: tuple[Method, list[Any]] | None = None

    @property
    def is_abandoned(self) -> bool:
        """Whether its caller has been ended."""
        return self.place.is_abandoned

    def wait(self) -> list[Any]:
        """Return the arguments of the answer.

        Raises:
            BaseException: Why there is none.
        """
        try:
            answer: list[Any] = self.place.wait()
        except BaseException:
            if self.is_abandoned and self.answer is not None:
                self._undo()  # it was answered, and its caller ended before it could go on
            raise
        return answer

    def settle(self, method: Method, args: list[Any]) -> None:
        """Take the answer."""
        self.state = CallState.ANSWERED
        self.answer = method, args
        if self.is_abandoned:
            self._undo()
            return
        if self.on_answer is not None:
            self.on_answer(method, args)
        self.place.tell(args)

    def fail(self, exc: BaseException) -> None:
        """Take note that no answer comes."""
        self.state = CallState.FAILED
        self.place.fail(copied(exc))

    def _undo(self) -> None:
        answer, self.answer = self.answer, None
        if self.undo is not None and answer is not None:
            self.undo(*answer)


class Reads(Protocol):
    """A connection, as far as calls need it."""

    hub: Hub
    outbox: Any

    def expect(self, one: object) -> None:
        """See to it that somebody reads, until :meth:`expect_no_more`."""

    def expect_no_more(self, one: object) -> None:
        """Take note that ``one`` has what it needed to be read."""


class Calls:
    """The calls of one channel, one of them in flight. Belongs to the hub's thread.

    Args:
        connection: What the calls are sent on.
    """

    def __init__(self, connection: Reads) -> None:
        self._connection = connection
        #: The call that the broker answers next.
        self.in_flight: Call | None = None
        self._waiting: deque[Call] = deque()
        self._answered = self._abandoned = 0

    def ask(self, call: Call) -> list[Any]:
        """Send ``call`` when it is its turn, and return the arguments of the answer.

        Raises:
            Exception: The channel or the connection has ended.
            socket.timeout: This is the hub itself, which cannot wait.
        """
        connection = self._connection
        connection.outbox.check()
        self._waiting.append(call)
        self._send_next()
        if not connection.hub.can_park():
            raise socket.timeout("the hub itself cannot wait for an answer")
        return call.wait()

    def post(self, call: Call) -> None:
        """Send ``call`` when it is its turn. Nobody gets the answer."""
        self._waiting.append(call)
        self.send_next()

    def awaits(self, method: Method) -> bool:
        """Tell whether ``method`` answers the call in flight."""
        return self.in_flight is not None and method in self.in_flight.answers

    def settle(self, method: Method, args: list[Any]) -> None:
        """Take the answer to the call in flight, and send the next one."""
        call, self.in_flight = self.in_flight, None
        if call is not None:
            self._answered += 1
            self._abandoned += call.is_abandoned
            call.settle(method, args)
        self.send_next()

    def lose(self, exc: BaseException) -> bool:
        """Fail the call in flight; tell whether somebody waits for it."""
        call, self.in_flight = self.in_flight, None
        if call is None:
            return False
        call.fail(exc)
        return not call.is_abandoned

    def send_next(self) -> None:
        """Send the next call after one that has ended."""
        try:
            self._send_next()
        except Exception as exc:
            self.fail(exc)
        if self.in_flight is None:
            self._connection.expect_no_more(self)

    def fail(self, exc: BaseException) -> bool:
        """Fail all calls; tell whether somebody waited for the one in flight."""
        is_told = self.lose(exc)
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            call.fail(exc)
        self._connection.expect_no_more(self)
        return is_told

    def statistics(self) -> dict[str, int | float | str]:
        """Return how many wait, and what has become of the others."""
        return {
            "in_flight": int(self.in_flight is not None),
            "waiting": len(self._waiting),
            "answered": self._answered,
            "answered_too_late": self._abandoned,
        }

    def _send_next(self) -> None:
        while self.in_flight is None and self._waiting:
            call = self._waiting.popleft()
            if call.is_abandoned and call.method not in _ENDS:
                continue
            self._connection.outbox.post_behind_acks(call.data)
            call.state = CallState.SENT
            call.data = b""
            self.in_flight = call
            self._connection.expect(self)
