"""The one way to wait: a greenlet parks until it is told, with a value or an error.

A :class:`Place` is for one greenlet that waits for one thing. A :class:`ParkingLot` is for any
number of greenlets that wait for the same kind of change.

Who may switch: only those who wait, in :meth:`Place.wait` and :meth:`ParkingLot.park`. Whoever
tells them does not: they go on in the hub's next turn, in the order in which they were told. A
greenlet that is ended while it waits (a limit, a kill, a timeout of the user's) has left its place,
and nobody switches into it for that any more.

The model is trio's ``ParkingLot``. Its tasks are woken by the scheduler; greenlets are switched
into by the hub, and what leaves one of them must not reach the next: see
:meth:`hybrid.hubs.base.Hub.resume`.
"""

from __future__ import annotations

import copy
import socket
from typing import Any

from hybrid.hubs.base import Greenlet, Hub


class Place:
    """Where one greenlet waits for one thing, which is told once. Belongs to the hub's thread.

    It may be told before anybody waits.

    Args:
        hub: The hub whose greenlet waits.
    """

    __slots__ = ("_error", "_hub", "_value", "greenlet", "is_abandoned", "is_told")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        #: Who waits, while it does.
        self.greenlet: Greenlet | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        #: Whether the outcome is known.
        self.is_told = False
        #: Whether whoever waited was ended before it could go on with the outcome.
        self.is_abandoned = False

    def wait(self, seconds: float | None = None) -> Any:
        """Park until told, and return the value. Never call it in the hub.

        Args:
            seconds: How long to wait; ``None`` for ever.

        Raises:
            BaseException: The error that was told.
            socket.timeout: Nothing was told in time.
        """
        if not self.is_told:
            hub = self._hub
            alarm = None if seconds is None else hub.call_later(seconds, self._expire)
            self.greenlet = hub.current()
            try:
                while not self.is_told:
                    hub.park()  # anybody may switch into a greenlet
            except BaseException:
                self.is_abandoned = True
                raise
            finally:
                self.greenlet = None
                if alarm is not None:
                    alarm.cancel()
        error, self._error = self._error, None  # with its traceback it would refer to itself
        if error is not None:
            try:
                raise error
            finally:
                del error
        return self._value

    def tell(self, value: Any = None) -> None:
        """Let whoever waits go on with ``value``. What was told before stays."""
        if not self.is_told:
            self._value = value
            self.is_told = True
            if self.greenlet is not None:
                self._hub.resume_soon(self)

    def fail(self, exc: BaseException) -> None:
        """Let whoever waits raise ``exc``, which is nobody else's. What was told before stays."""
        if not self.is_told:
            self._error = exc
            self.is_told = True
            if self.greenlet is not None:
                self._hub.resume_soon(self)

    def _expire(self) -> None:
        self.fail(socket.timeout("timed out"))


class ParkingLot:
    """Greenlets that wait for one kind of change, first come, first served.

    Belongs to the hub's thread.

    Args:
        hub: The hub whose greenlets wait.
    """

    __slots__ = ("_hub", "parked")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        #: Where they wait, in the order of their coming. For looking at.
        self.parked: dict[Place, None] = {}

    def park(self, seconds: float | None = None) -> Any:
        """Wait for the next :meth:`unpark`, and return what it passes. Never call it in the hub.

        It tells that something has changed; look whether it is what you wait for.

        Raises:
            BaseException: What :meth:`fail` was told.
            socket.timeout: Nothing has changed in time.
        """
        place = Place(self._hub)
        self.parked[place] = None
        try:
            return place.wait(seconds)
        except BaseException:
            if place.is_abandoned and place not in self.parked:
                # It was chosen before it was ended, so it is another one's turn.
                self.unpark(value=place._value)
            raise
        finally:
            self.parked.pop(place, None)

    def unpark(self, count: int = 1, value: Any = None) -> None:
        """Let the ``count`` who have waited longest go on with ``value``."""
        while count > 0 and self.parked:
            place = next(iter(self.parked))
            del self.parked[place]
            if not place.is_told:
                place.tell(value)
                count -= 1

    def unpark_all(self, value: Any = None) -> None:
        """Let all who wait go on with ``value``."""
        if self.parked:
            self.unpark(len(self.parked), value)

    def fail(self, exc: BaseException) -> None:
        """Let all who wait raise an exception like ``exc``."""
        parked, self.parked = self.parked, {}
        for place in parked:
            place.fail(copied(exc))

    def __len__(self) -> int:
        return len(self.parked)

    def statistics(self) -> dict[str, int]:
        """Return how many wait."""
        return {"waiting": len(self.parked)}


def copied(exc: BaseException) -> BaseException:
    """Return an exception like ``exc`` for another greenlet to raise.

    One instance raised in many greenlets would collect all their tracebacks.
    """
    try:
        return copy.copy(exc).with_traceback(None)
    except Exception:
        pass  # its class wants other arguments than those that it keeps, as some of gevent's do
    cls = type(exc)
    try:
        other = cls.__new__(cls)
        (OSError if isinstance(exc, OSError) else BaseException).__init__(other, *exc.args)
        other.__dict__.update(exc.__dict__)
    except Exception:
        return exc
    return other
