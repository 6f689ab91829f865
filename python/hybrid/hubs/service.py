"""Work that a greenlet of the worker's own does, for as long as there is some.

Who may switch: that greenlet, in its work. Whoever has work for it does not.

No limit of a task can reach such a greenlet, but it may be ended all the same: by a
:exc:`SystemExit` in a receiver of a signal, or by whoever kills every greenlet that it finds. What
is left to do is then done by another one, so "somebody serves" is never a flag that outlives who
has set it: it is the greenlet itself.
"""

from __future__ import annotations

from typing import Callable

from hybrid.hubs.base import Greenlet, Hub


class Service:
    """One greenlet at a time that works until nothing is left. Belongs to the hub's thread.

    Args:
        hub: The hub that it runs on.
        count: Returns how much there is to do; nothing false while there is any.
        serve: Does a piece of it, and may block. It takes what it does away first: what it raises
            ends the greenlet, the library reports it, and another one goes on with the rest.
    """

    __slots__ = ("_count", "_greenlet", "_hub", "_serve")

    def __init__(self, hub: Hub, count: Callable[[], int], serve: Callable[[], object]) -> None:
        self._hub = hub
        self._count = count
        self._serve = serve
        self._greenlet: Greenlet | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a greenlet works, or is about to."""
        greenlet = self._greenlet
        return greenlet is not None and not greenlet.dead

    def wake(self) -> None:
        """Have what there is to do done, from the hub's next turn on."""
        greenlet = self._greenlet
        if greenlet is None or greenlet.dead:  # it can be killed before it has begun
            self._greenlet = self._hub.spawn(self._run)

    def _run(self) -> None:
        try:
            while self._count():
                self._serve()
        finally:
            self._greenlet = None
            if self._count():
                self.wake()
