"""The only module that monkey-patches."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from hybrid.errors import NotPatchedError

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
    if early:
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


def specialise(instance: Any, cls: type) -> None:
    """Give ``instance``, an object of another package, a subclass of its own class."""
    if not issubclass(cls, type(instance)):
        raise TypeError(f"{cls!r} is no subclass of {type(instance)!r}")
    instance.__class__ = cls


def replace_items(mapping: dict[str, str], items: dict[str, str]) -> None:
    """Overwrite entries of ``mapping``, a registry of another package.

    Raises:
        KeyError: The registry has no such entry: this release of the package is not known.
    """
    for key, value in items.items():
        if key not in mapping:
            raise KeyError(key)
        mapping[key] = value


def replace_attribute(owner: Any, name: str, value: Any) -> None:
    """Give ``owner``, a module or class of another package, another attribute.

    Raises:
        AttributeError: It has no such attribute: this release of the package is not known.
    """
    getattr(owner, name)
    setattr(owner, name, value)


def _patch_gevent() -> None:
    import gevent.monkey
    import gevent.signal

    gevent.monkey.patch_all()


def _patch_eventlet() -> None:
    import eventlet
    import eventlet.debug

    eventlet.monkey_patch()
    # Stock Celery's setting: raise in whatever blocks the hub for so many seconds.
    seconds = float(os.environ.get("EVENTLET_NOBLOCK", 0))
    if seconds:
        eventlet.debug.hub_blocking_detection(True, seconds)


_PATCHES = {"gevent": _patch_gevent, "eventlet": _patch_eventlet}
