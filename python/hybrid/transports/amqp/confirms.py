"""Messages that the broker has not taken charge of yet, and who waits for that.

Who may switch: publishers, while they wait in :meth:`Confirms.wait`. Whoever reads settles without
switching. A publisher that is ended has abandoned its message, which is out all the same: it stays
here until the broker has settled it, so that nobody else is told of it.
"""

from __future__ import annotations

from typing import Any

from hybrid.hubs.parking import Place, copied


class _Unconfirmed:
    """A message that the broker has not confirmed, and where its publisher waits."""

    __slots__ = ("body", "place", "route")

    def __init__(self, place: Place, route: tuple[str, str], body: Any) -> None:
        self.place = place
        #: Exchange and routing key of a message that comes back when no queue gets it.
        self.route = route
        #: The body of a message that may come back.
        self.body = body


class Confirms:
    """What is published in one epoch of a channel, many messages at a time, each with its outcome.

    Belongs to the hub's thread. The broker numbers messages from when it was asked to confirm them.

    Args:
        connection: The channel's. It reads while anything is unconfirmed.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._unconfirmed: dict[int, _Unconfirmed] = {}
        #: Messages published so far: the broker counts them, too.
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
        place = Place(self._connection.hub)
        self._unconfirmed[self._published] = _Unconfirmed(place, (exchange, routing_key), body)
        self._connection.expect(self)
        place.wait(seconds or None)

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
        for waiting in numbers:
            place = unconfirmed.pop(waiting).place
            if error is None:
                place.tell()
            else:
                place.fail(error())
        if not unconfirmed:
            self._connection.expect_no_more(self)

    def come_back(self, exchange: str, routing_key: str, error: BaseException) -> bool:
        """Raise ``error`` in who waits for a message that no queue got; tell whether one does."""
        for one in self._unconfirmed.values():
            # It stays here: the broker confirms it as well.
            if one.body is not None and one.route == (exchange, routing_key):
                one.body = None
                one.place.fail(error)
                return True
        return False

    def fail(self, exc: BaseException) -> bool:
        """Let all who wait raise ``exc``; tell whether there were any."""
        ended, self._unconfirmed = self._unconfirmed, {}
        self._connection.expect_no_more(self)
        is_told = False
        for one in ended.values():
            is_told = is_told or not (one.place.is_abandoned or one.place.is_told)
            one.place.fail(copied(exc))
        return is_told

    def statistics(self) -> dict[str, int | float | str]:
        """Return how many were published, are unconfirmed, and have lost their publisher."""
        return {
            "published": self._published,
            "unconfirmed": len(self._unconfirmed),
            "abandoned": sum(one.place.is_abandoned for one in self._unconfirmed.values()),
        }
