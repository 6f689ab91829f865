"""gevent's loop as a :class:`~hybrid.hubs.base.Hub`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any, Callable

import gevent
import gevent.monkey
from gevent.hub import get_hub

from hybrid.hubs import forking
from hybrid.hubs.base import Alarm, Greenlet, Hub

#: Watchers, by the names of their classes, which stand for something that waits. The others handle
#: signals and forks.
_WAITING = frozenset({"async_", "check", "child", "idle", "io", "prepare", "stat", "timer"})

_get_native_ident: Callable[[], int] = gevent.monkey.get_original("_thread", "get_ident")


class _Alarm:
    """One watcher of the loop, closed as soon as it is of no more use."""

    __slots__ = ("_callback", "_watcher")

    def __init__(self, watcher: Any, callback: Callable[[], object]) -> None:
        self._watcher = watcher
        self._callback = callback
        # `update` takes the loop's clock afresh: after a long turn it lags behind.
        watcher.start(self._fire, update=True)

    def cancel(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
            watcher.close()

    def _fire(self) -> None:
        self.cancel()
        self._callback()


class GeventHub(Hub):
    """The hub of the thread that opens it."""

    name = "gevent"
    reaps_children = True

    def __init__(self) -> None:
        super().__init__()
        self._hub: Any = None
        self._loop: Any = None
        self._thread_ident: int | None = None

    def _open(self) -> None:
        self._hub = get_hub()
        self._loop = self._hub.loop
        self._thread_ident = _get_native_ident()
        self._shortcut(call_soon=self._loop.run_callback, park=self._hub.switch, sleep=gevent.sleep)

    def in_thread(self) -> bool:
        return _get_native_ident() == self._thread_ident

    def can_park(self) -> bool:
        return _get_native_ident() == self._thread_ident and gevent.getcurrent() is not self._hub

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._loop.run_callback(callback, *args)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        if self.is_open:
            self._loop.run_callback_threadsafe(callback, *args)
        else:
            self._early.append((callback, args))

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        return _Alarm(self._loop.timer(max(seconds, 0.0)), callback)

    def spawn(self, run: Callable[..., object], *args: Any) -> Greenlet:
        greenlet: Greenlet = gevent.spawn(run, *args)
        return greenlet

    def park(self) -> Any:
        return self._hub.switch()

    def sleep(self, seconds: float) -> None:
        gevent.sleep(seconds)

    def after_fork(self) -> None:
        me: Any = gevent.getcurrent()
        if self.in_thread():
            # Not another loop: what the child has inherited, sockets and locks, knows this one. And
            # not a destroyed one: it would take what it watches out of the parent's epoll instance.
            for waiting in _find_waiting(self._loop):
                forking.kept.append((waiting, waiting.callback, waiting.args))
                waiting.stop()
            # The loop alone: gevent's `reinit` also ends the loops of native threads, and waits for
            # that for ever. What gevent itself forks for Python code, it calls that for.
            self._loop.reinit()
            if me is not self._hub and me.parent is not None:
                last = forking.make_last()
                # Where control goes when nothing is left that the loop could wait for.
                self._hub.parent = last
                if isinstance(me, gevent.Greenlet):
                    me.rawlink(_end_with)
                else:
                    me.parent = last
        self._become(forking.ForkedHub)


def _find_waiting(loop: Any) -> Iterator[Any]:
    """Yield what waits in ``loop``: its watchers, and the callbacks of its next turn.

    gevent has no list of watchers, but each refers to its loop.
    """
    gc.unfreeze()  # what is frozen is not found
    for found in gc.get_referrers(loop):
        cls = type(found)
        if cls.__module__.startswith("gevent.") and cls.__name__ in _WAITING:
            # A timer that is due is not active any more. What wakes the loop for other threads,
            # and is the loop's own, does not keep it going.
            is_own = cls.__name__.startswith("async") and not found.ref
            if (found.active or found.pending) and not is_own:
                yield found
    for found in gc.get_referents(loop):
        if type(found).__name__ == "CallbackFIFO":
            yield from tuple(found)


def _end_with(ended: Any) -> None:
    forking.end_child(ended.exception)


def create() -> Hub:
    """Return a hub for the thread that opens it."""
    return GeventHub()
