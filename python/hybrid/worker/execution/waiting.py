"""Greenlets that wait for something to change, and look again when they are told."""

from __future__ import annotations

from hybrid.hubs.base import Greenlet, Hub


class Waiters:
    """Those who wait for one kind of change. Belongs to the hub's thread.

    Args:
        hub: The hub whose greenlets wait.
    """

    __slots__ = ("_greenlets", "_hub", "_is_scheduled")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._greenlets: set[Greenlet] = set()
        self._is_scheduled = False

    def wait(self) -> None:
        """Park until the next :meth:`wake`. Never call it in the hub.

        Anybody may switch into a greenlet, so look whether it is what you wait for.
        """
        me = self._hub.current()
        self._greenlets.add(me)
        try:
            self._hub.park()
        finally:
            self._greenlets.discard(me)

    def wake(self) -> None:
        """Let all who wait look again in the hub's next turn, once for all calls until then."""
        if self._greenlets and not self._is_scheduled:
            self._is_scheduled = True
            self._hub.call_soon(self.wake_now)

    def wake_now(self) -> None:
        """Let all who wait look again. Runs in the hub."""
        self._is_scheduled = False
        # Whoever has left meanwhile waits for something else: a switch would confuse it.
        for greenlet in tuple(self._greenlets):
            if greenlet in self._greenlets:
                greenlet.switch()
