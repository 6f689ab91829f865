"""gevent's loop as a :class:`~hybrid.hubs.base.Hub`."""

from __future__ import annotations

from typing import Any, Callable

import gevent
import gevent.monkey
from gevent.hub import get_hub

from hybrid.hubs.base import Alarm, Greenlet, Hub

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
    """The hub of the thread that creates it."""

    name = "gevent"

    def __init__(self) -> None:
        super().__init__()
        self._hub = get_hub()
        self._loop = self._hub.loop
        self._thread_ident = _get_native_ident()

    def current(self) -> Greenlet:
        greenlet: Greenlet = gevent.getcurrent()
        return greenlet

    def in_thread(self) -> bool:
        return _get_native_ident() == self._thread_ident

    def can_park(self) -> bool:
        return _get_native_ident() == self._thread_ident and gevent.getcurrent() is not self._hub

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._loop.run_callback(callback, *args)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        self._loop.run_callback_threadsafe(callback, *args)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        return _Alarm(self._loop.timer(max(seconds, 0.0)), callback)

    def spawn(self, run: Callable[..., object], *args: Any) -> Greenlet:
        greenlet: Greenlet = gevent.spawn(run, *args)
        return greenlet

    def park(self) -> Any:
        return self._hub.switch()

    def sleep(self, seconds: float) -> None:
        gevent.sleep(seconds)


def create() -> Hub:
    """Return a hub for the calling thread."""
    return GeventHub()
