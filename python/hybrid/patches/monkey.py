"""The only module that has the standard library made cooperative, by gevent or eventlet."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import warnings
from types import FrameType

from hybrid.errors import NotPatchedError
from hybrid.patches import Patch

#: Seconds that other threads get to end their imports.
IMPORT_WAIT = 5.0
#: The code of Python's import system, which holds the lock of a module while that is executed.
_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"

#: Modules that hold on to locks, sockets or threads from when they are imported.
_EARLY = ("celery", "kombu", "billiard", "amqp", "redis", "requests", "urllib3", "httpx")


def patch(hub: str) -> None:
    """Make the standard library cooperative for ``hub``, unless it is already.

    Warns when modules were imported before, which then keep blocking locks and sockets.

    Raises:
        NotPatchedError: The library behind ``hub`` is not installed, or the process is
            patched for the other one.
    """
    if hub not in ("gevent", "eventlet"):
        raise NotPatchedError(f"no hub is called {hub!r}; choose gevent or eventlet")
    other = {"gevent": "eventlet", "eventlet": "gevent"}[hub]
    if is_patched(other):
        raise NotPatchedError(
            f"hybrid.{hub}: this process is already patched for {other}; "
            f"start the worker with -P hybrid.{other}, or remove what patches it"
        )
    if is_patched(hub):
        return
    early = [name for name in _EARLY if name in sys.modules]
    # By itself, `celery` holds on to nothing: Celery patches when it has been imported, too.
    if early and early != ["celery"]:
        warnings.warn(
            f"hybrid.{hub}: {', '.join(early)} imported before the standard library is patched, "
            f'so they may block the whole worker; call hybrid.patch("{hub}") before any other '
            "import",
            RuntimeWarning,
            stacklevel=3,
        )
    try:
        _PATCHES[hub]()
    except ModuleNotFoundError as exc:
        if exc.name != hub:
            raise
        raise NotPatchedError(
            f"hybrid.{hub}: {hub} is not installed; pip install 'celery-hybrid[{hub}]'"
        ) from exc
    _ON_THE_LIST[hub].apply_for_good()


def is_patched(hub: str) -> bool:
    """Tell whether sockets are those of ``hub``."""
    if hub not in sys.modules:
        return False
    if hub == "gevent":
        import gevent.monkey

        return bool(gevent.monkey.is_module_patched("socket"))
    import eventlet.patcher

    return bool(eventlet.patcher.is_monkey_patched("socket"))


def require(hub: str) -> None:
    """Make sure that sockets are those of ``hub``.

    Raises:
        NotPatchedError: They are not. The message says what to type.
    """
    if not is_patched(hub):
        raise NotPatchedError(
            f"hybrid.{hub}: sockets are not patched, because the pool was not named on the "
            f"command line of this process; start the worker with "
            f'"celery -A proj worker -P hybrid.{hub}" or "python -m hybrid worker -A proj '
            f'-P hybrid.{hub}", or call hybrid.patch("{hub}") before any other import'
        )


def _patch_gevent() -> None:
    import gevent.monkey
    import gevent.signal

    _keep_out_of_imports()
    if _is_importing(sys._getframe()):
        gevent.monkey.patch_all()
        return
    # gevent looks for locks that it has to put right among all objects. There are none, and looking
    # at Celery's proxies would import Celery before sockets are patched.
    gc.freeze()
    try:
        gevent.monkey.patch_all()
    finally:
        gc.unfreeze()


def _keep_out_of_imports() -> None:
    """Wait until nobody holds the lock of a module that is being imported.

    gevent gives threads another identity, so whoever holds such a lock cannot release it any more,
    and whoever imports the same module waits for ever. Where there is one thread only, gevent puts
    its locks right by itself. eventlet leaves Python's import system on native threads.

    Raises:
        NotPatchedError: This thread itself is importing, and it is not the only one.
    """
    me = threading.get_ident()
    # A thread that an extension has started may be registered, and have no frame.
    named = {thread.ident: thread.name for thread in threading.enumerate()}
    others = (named.keys() | sys._current_frames()) - {me}
    if not others:
        return
    if _is_importing(sys._getframe()):
        names = [named[ident] for ident in others if ident in named]
        raise NotPatchedError(
            "hybrid.gevent: a module that is being imported cannot patch while other threads run "
            f"({', '.join(names) or 'started outside threading'}); call "
            'hybrid.patch("gevent") in the file that Python runs, or before they start'
        )
    deadline = time.monotonic() + IMPORT_WAIT
    while any(_is_importing(f) for i, f in sys._current_frames().items() if i != me):
        if time.monotonic() > deadline:
            warnings.warn(
                f"hybrid.gevent: another thread has been importing a module for {IMPORT_WAIT:g} s; "
                "whoever imports the same module may wait for ever",
                RuntimeWarning,
                stacklevel=4,
            )
            return
        time.sleep(0.005)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT_SYSTEM:
            return True
        frame = frame.f_back
    return False


def _patch_eventlet() -> None:
    import eventlet
    import eventlet.debug

    eventlet.monkey_patch()
    # Stock Celery's setting: raise in whatever blocks the hub for so many seconds.
    seconds = float(os.environ.get("EVENTLET_NOBLOCK", 0))
    if seconds:
        eventlet.debug.hub_blocking_detection(True, seconds)


_PATCHES = {"gevent": _patch_gevent, "eventlet": _patch_eventlet}
_WHY = "whatever waits lets other greenlets run"
_ON_THE_LIST = {
    "gevent": Patch("gevent.monkey.patch_all()", _WHY, since="0.1"),
    "eventlet": Patch("eventlet.monkey_patch()", _WHY, since="0.1"),
}
