"""Event loops behind one contract, :class:`hybrid.hubs.base.Hub`."""

from __future__ import annotations

import gc
import os
import traceback
from importlib import import_module
from types import MethodType
from typing import TYPE_CHECKING, Callable, Final
from weakref import WeakMethod

from hybrid import runtime

if TYPE_CHECKING:
    from hybrid.hubs.base import Hub

NAMES: Final = ("gevent", "eventlet")

#: Returns the hub that this process's pool runs on; ``None`` where none has been started.
running = runtime.running

#: Returns what forked children call, in this order; ``None`` where that is gone.
_on_fork: list[Callable[[], Callable[[], object] | None]] = []

os.register_at_fork(after_in_child=lambda: _after_fork())


def create(name: str) -> Hub:
    """Return a new hub called ``name``, not open yet, importing its library.

    Raises:
        ValueError: ``name`` is not one of :data:`NAMES`.
        ImportError: The library behind ``name`` is not installed.
    """
    if name not in NAMES:
        raise ValueError(f"no hub is called {name!r}; choose one of {', '.join(NAMES)}")
    hub: Hub = import_module(f"hybrid.hubs.{name}").create()
    return hub


def get(name: str) -> Hub:
    """Return this process's hub called ``name``, open, without a pool.

    Raises:
        ValueError: ``name`` is not one of :data:`NAMES`.
        ImportError: The library behind ``name`` is not installed.
        RuntimeError: The process runs on another hub.
    """
    found = runtime.make(name)
    if not found.hub.is_open:
        found.start()
    return found.hub


def on_fork(forget: Callable[[], object]) -> None:
    """Call ``forget()`` in every child that this process forks from now on, once it has a hub.

    It must not block, and may use nothing that belongs to the parent. By then the runtime is
    forgotten, and :func:`running` returns ``None``: what the child makes is Celery's own. A child
    that is forked before the runtime is started has nothing to forget, and may start it.

    A method does not keep its object alive.
    """
    _on_fork[:] = [find for find in _on_fork if find() is not None]
    _on_fork.append(WeakMethod(forget) if isinstance(forget, MethodType) else lambda: forget)


def _after_fork() -> None:
    if running() is None:
        return
    # What a finalizer of the parent's does may wait for a lock that nobody gives back here.
    collects = gc.isenabled()
    gc.disable()
    try:
        # First: until then the loop is the parent's.
        found = runtime.forget()
        if found is not None:
            found.hub.after_fork()
        for find in _on_fork:
            forget = find()
            if forget is not None:
                forget()
        # What a child forks has nothing of this process left to forget.
        _on_fork.clear()
        # Collected, what the parent has thrown away would be closed with words.
        gc.freeze()
        if collects:
            gc.enable()
    except BaseException:
        # Going on, the child would run what is its parent's.
        traceback.print_exc()
        os._exit(1)
