"""Publishers that wait until the broker has taken charge of their messages."""

from __future__ import annotations

import socket
from typing import Any

from hybrid.hubs.base import Greenlet
from hybrid.hubs.parking import copied


class _Unconfirmed:
    """A message that the broker has not confirmed, and who waits for it."""

    __slots__ = ("body", "error", "greenlet", "is_done", "route")

    def __init__(self, greenlet: Greenlet, route: tuple[str, str], body: Any) -> None:
        self.greenlet: Greenlet | None = greenlet
        #: Exchange and routing key of a message that comes back when no queue gets it.
        self.route = route
        #: The body of a message that may come back.
        self.body = body
        self.is_done = False
        self.error: BaseException | None = None


class Confirms:
    """What is published on one channel, many messages at a time, each with its own outcome.

    Belongs to the hub's thread.

    Args:
        connection: The channel's. It reads while anybody waits.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._unconfirmed: dict[int, _Unconfirmed] = {}
        #: Messages published since confirmations were asked for: the broker counts them, too.
        self._published = 0

    def start(self) -> None:
        """Count from the next message on."""
        self._published = 0

    def count(self) -> None:
        """Take note that a message is published."""
        self._published += 1

    def wait(self, exchange: str, routing_key: str, body: Any, seconds: float | None) -> None:
        """Return when the broker has confirmed the message that was counted last.

        Args:
            exchange: Where the message was published.
            routing_key: And with what key.
            body: Its body if the broker may return it, else ``None``.
            seconds: How long to wait.

        Raises:
            amqp.AMQPError: The broker has refused it, or closed the channel or connection.
            socket.timeout: It has not said anything in time.
        """
        connection = self._connection
        number = self._published
        one = _Unconfirmed(connection.hub.current(), (exchange, routing_key), body)
        self._unconfirmed[number] = one
        connection.unconfirmed += 1
        connection.start_pump()
        alarm = (
            connection.hub.call_later(seconds, lambda: self._expire(number)) if seconds else None
        )
        try:
            while not one.is_done:
                connection.hub.park()
        finally:
            one.greenlet = None  # whoever was killed waits for something else now
            if self._unconfirmed.get(number) is one:
                del self._unconfirmed[number]
                connection.unconfirmed -= 1
            if alarm is not None:
                alarm.cancel()
        if one.error is not None:
            raise one.error

    def settle(self, number: int, multiple: bool, error: type[BaseException] | None) -> None:
        """Take note of what the broker says.

        Args:
            number: Of a message; 0 with ``multiple`` for all.
            multiple: Those before it are meant as well.
            error: What is raised in who waits.
        """
        unconfirmed = self._unconfirmed
        if not multiple:
            numbers = [number] if number in unconfirmed else []
        else:
            numbers = []
            for waiting in unconfirmed:  # in order
                if number and waiting > number:
                    break
                numbers.append(waiting)
        settled = [unconfirmed.pop(waiting) for waiting in numbers]
        for one in settled:
            if error is not None:
                one.error = error()
        self._end_waiting(settled)

    def come_back(self, exchange: str, routing_key: str, error: BaseException) -> bool:
        """Raise ``error`` in who waits for a message that no queue got; tell whether one does."""
        for number, one in self._unconfirmed.items():
            if one.body is not None and one.route == (exchange, routing_key):
                one.error = error
                del self._unconfirmed[number]
                self._end_waiting([one])
                return True
        return False

    def fail(self, exc: BaseException) -> bool:
        """Let all who wait raise ``exc``; tell whether there were any."""
        ended = list(self._unconfirmed.values())
        self._unconfirmed.clear()
        for one in ended:
            one.error = copied(exc)
        self._end_waiting(ended)
        return bool(ended)

    def _expire(self, number: int) -> None:
        one = self._unconfirmed.pop(number, None)
        if one is not None:
            one.error = socket.timeout("timed out")
            self._end_waiting([one])

    def _end_waiting(self, ended: list[_Unconfirmed]) -> None:
        if ended:
            self._connection.unconfirmed -= len(ended)
            self._connection.hub.call_soon(self._resume, ended)

    def _resume(self, ended: list[_Unconfirmed]) -> None:
        for one in ended:
            one.is_done = True
            if one.greenlet is not None:
                one.greenlet.switch()
