"""What a forked child makes of the hub that it has inherited: nothing.

A child has a copy of its parent's loop, with all that waits there: were that loop to turn, it would
run its parent's greenlets. So the greenlet that forks goes on with a loop in which nothing waits,
none of the parent's other greenlets gets another turn from it, and the
:class:`~hybrid.hubs.base.Hub` becomes a :class:`ForkedHub`, through which nothing happens any more.
What the parent holds is neither used nor closed, only forgotten.

All of this happens in the child before ``fork`` returns, so nothing here may block.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from contextlib import suppress
from typing import Any, Callable, NoReturn

from greenlet import getcurrent, greenlet

from hybrid.errors import ForkedError
from hybrid.hubs.base import Alarm, Greenlet, Hub

#: What belongs to the parent and lives on in the child, as ending it would run code.
kept: list[Any] = []


class _Unarmed:
    def cancel(self) -> None:
        pass


class ForkedHub(Hub):
    """A hub in a child of its process: it schedules nothing, and nobody can park on it."""

    name = "forked"

    def in_thread(self) -> bool:
        return False

    def can_park(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        pass

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        pass

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:  # noqa: ARG002
        return _Unarmed()

    def spawn(self, run: Callable[..., object], *args: Any) -> Greenlet:  # noqa: ARG002
        found: Greenlet = greenlet(run)  # which nobody starts
        return found

    def park(self) -> Any:
        raise ForkedError(
            "this process is a forked child, where the worker's connections, timers and slots are "
            "not to be used; open what it needs after the fork, or start it as a program of its own"
        )

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def resume(self, greenlet: Greenlet, *args: Any) -> None:
        pass

    def interrupt(self, greenlet: Greenlet, exc: BaseException | type[BaseException]) -> None:
        pass

    def after_fork(self) -> None:
        pass


def end_child(exc: BaseException | None = None) -> NoReturn:
    """End this process as one that ``exc`` leaves, or that has come to its end.

    Exit handlers, which are the parent's, are not run.
    """
    code = 0
    if isinstance(exc, SystemExit):
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        if code and not isinstance(exc.code, int):
            _write(str(exc.code))
    elif exc is not None:
        code = 1
        _write("".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).rstrip())
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


def _write(text: str) -> None:
    # Not on `sys.stderr`, which Celery may have made a log, whose locks may be held for ever.
    with suppress(Exception):
        os.write(2, f"Forked child {os.getpid()} ends:\n{text}\n".encode(errors="replace"))


def make_last() -> Any:
    """Return a greenlet that ends the child when control comes to it.

    It is what the greenlet that forks, or the loop that it gets, has to end in: what is above them
    is the parent's.
    """
    me = getcurrent()

    def run() -> None:
        try:
            me.switch()
        except BaseException as exc:
            end_child(exc)
        end_child()

    root = me
    while root.parent is not None:
        root = root.parent
    last = greenlet(run, parent=root)
    last.switch()
    return last
