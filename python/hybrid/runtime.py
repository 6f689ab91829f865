"""What one process has, and has once: the hub, and all that belongs to it.

The ``-P`` module makes the runtime, the pool starts and stops it. Until it is started nothing is
open: no file descriptor, no thread, no greenlet. So whoever has imported everything can fork, and
each child starts a runtime of its own.

A channel, a connection or a client that is opened before the runtime is started is kombu's or
Celery's, and stays so; those that are opened while it runs are ours. Stopping it ends nothing:
Celery closes the connections of a worker after its pool.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from hybrid.patches import Registry, registry

if TYPE_CHECKING:
    from hybrid.hubs.base import Hub


class Runtime:
    """The hub of a process, and what the pieces of the worker keep in common.

    Args:
        hub: Not open yet.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        #: Clients that are shared, by server, database and login.
        self.clients: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()
        self.timers: weakref.WeakSet[Any] = weakref.WeakSet()
        #: The writers of the lines of a log, one for each handler.
        self.lines: list[Any] = []
        self.patches: Registry = registry
        self._users = 0

    def start(self) -> None:
        """Open the hub for one more pool."""
        global _started
        self._users += 1
        self.hub.open()
        _started = self

    def stop(self) -> None:
        """Take note that one of the pools is done with it."""
        self._users = max(self._users - 1, 0)

    def statistics(self) -> dict[str, Any]:
        """Return what there is of each kind."""
        return {
            "hub": self.hub.name,
            "pools": self._users,
            "clients": len(self.clients),
            "timers": len(self.timers),
            "entries": sum(len(timer) for timer in self.timers),
            "patches": len(self.patches.applied()),
        }


_made: Runtime | None = None
#: The same from its first start on.
_started: Runtime | None = None


def make(name: str) -> Runtime:
    """Return this process's runtime, made on first use, on the hub called ``name``.

    Raises:
        ValueError: There is no such hub.
        ImportError: The library behind it is not installed.
        RuntimeError: The process has a runtime on another hub.
    """
    from hybrid import hubs

    global _made
    if _made is None or (_made.hub.name != name and _made is not _started):
        _made = Runtime(hubs.create(name))
    if _made.hub.name != name:
        if name not in hubs.NAMES:
            hubs.create(name)
        raise RuntimeError(f"this process runs on {_made.hub.name}, and cannot on {name} as well")
    return _made


def current() -> Runtime:
    """Return the runtime of this process, started or not.

    Raises:
        RuntimeError: None has been made.
    """
    if _made is None:
        raise RuntimeError("no pool of ours has been asked for in this process")
    return _made


def running() -> Hub | None:
    """Return the hub, once the runtime has been started; ``None`` before."""
    return None if _started is None else _started.hub


def forget() -> Runtime | None:
    """Let a forked child have none of its parent's; return what the parent had, if it did."""
    global _made, _started
    found, _made, _started = _made, None, None
    return found
