"""eventlet's hub as a :class:`~hybrid.hubs.base.Hub`."""

from __future__ import annotations

import sys
import threading
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any, Callable

import eventlet
import eventlet.greenthread
import eventlet.hubs
import eventlet.patcher

from hybrid.hubs import forking
from hybrid.hubs.base import Alarm, Greenlet, Hub, getcurrent

# The unpatched functions: eventlet's own would switch, and these run in signal handlers
# and in native threads.
_os: Any = eventlet.patcher.original("os")
_get_native_ident: Callable[[], int] = eventlet.patcher.original("_thread").get_ident


class EventletHub(Hub):
    """The hub of the thread that opens it."""

    name = "eventlet"

    def __init__(self) -> None:
        super().__init__()
        self._hub: Any = None
        self._thread_ident: int | None = None
        self._from_elsewhere: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def _open(self) -> None:
        self._hub = eventlet.hubs.get_hub()
        self._thread_ident = _get_native_ident()
        self._shortcut(
            call_soon=partial(self._hub.schedule_call_global, 0),
            park=self._hub.switch,
            sleep=eventlet.sleep,
        )
        # eventlet has no thread-safe wake-up: a greenlet that waits for a pipe is one.
        self._wake_reader, self._wake_writer = _os.pipe()
        for fd in (self._wake_reader, self._wake_writer):
            _os.set_blocking(fd, False)
        self.spawn(self._listen)

    def in_thread(self) -> bool:
        return _get_native_ident() == self._thread_ident

    def can_park(self) -> bool:
        return _get_native_ident() == self._thread_ident and getcurrent() is not self._hub.greenlet

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._hub.schedule_call_global(0, callback, *args)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        if not self.is_open:
            self._early.append((callback, args))
            return
        self._from_elsewhere.append((callback, args))
        # Full means that wake-ups are still to be read.
        with suppress(BlockingIOError):
            _os.write(self._wake_writer, b"\0")

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        alarm: Alarm = self._hub.schedule_call_global(max(seconds, 0.0), callback)
        return alarm

    def spawn(self, run: Callable[..., object], *args: Any) -> Greenlet:
        greenlet: Greenlet = eventlet.spawn(run, *args)
        return greenlet

    def park(self) -> Any:
        return self._hub.switch()

    def sleep(self, seconds: float) -> None:
        eventlet.sleep(seconds)

    def after_fork(self) -> None:
        me: Any = getcurrent()
        old = self._hub
        # Its epoll instance is the parent's, too.
        forking.kept.append(old)
        if self.in_thread() and me is not old.greenlet:
            eventlet.hubs.use_hub(sys.modules[type(old).__module__])
            new = eventlet.hubs.get_hub()
            if me.parent is not None:
                # What forks must not end in the loop, which goes on for ever.
                new.greenlet.parent = me.parent = forking.make_last()
                if isinstance(me, eventlet.greenthread.GreenThread):
                    me.link(_end_with)
        if self.is_open:
            for fd in (self._wake_reader, self._wake_writer):
                _os.close(fd)
        # eventlet disables what the standard library does about these after a fork, and children
        # of multiprocessing would wait for the parent's main thread to end, with stock eventlet,
        # too. They belong to the copy of the module that eventlet's function is from.
        shutdown: Any = threading._shutdown  # type: ignore[attr-defined]
        shutdown.__globals__.get("_shutdown_locks", set()).clear()
        self._become(forking.ForkedHub)

    def _listen(self) -> None:
        while True:
            eventlet.hubs.trampoline(self._wake_reader, read=True)
            _os.read(self._wake_reader, 4096)
            while self._from_elsewhere:
                callback, args = self._from_elsewhere.popleft()
                self.call_soon(callback, *args)
                del callback, args  # else they live until the next wake-up


def _end_with(ended: Any) -> None:
    try:
        ended.wait()
    except BaseException as exc:
        forking.end_child(exc)
    forking.end_child()


def create() -> Hub:
    """Return a hub for the thread that opens it."""
    return EventletHub()
