"""A Rust-accelerated green pool for Celery.

Start a worker with ``celery -A proj worker -P hybrid.gevent -c 1000``. In a script of your
own, call :func:`patch` before anything else is imported::

    import hybrid

    hybrid.patch("gevent")

Importing this package imports nothing that touches sockets or threads.
"""

from __future__ import annotations

# `typing` takes longer to import than everything that the start-up file does.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["JobKilled", "__version__", "patch"]

__version__: str
JobKilled: type[BaseException]


def patch(name: str) -> None:
    """Make the standard library cooperative for ``name``, ``"gevent"`` or ``"eventlet"``.

    Call it before anything else is imported: modules that have taken a lock or a socket
    from the standard library by then keep the blocking one. Calling it again does nothing.

    Raises:
        hybrid.errors.NotPatchedError: The library is not installed, or the process is
            patched for the other one.
    """
    from hybrid import _boot

    _boot.patch(name)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from hybrid._rust import __version__

        return __version__
    if name == "JobKilled":
        from hybrid.worker.execution.pool import JobKilled

        return JobKilled
    if name in ("gevent", "eventlet"):
        # Celery resolves `worker_pool = "hybrid.gevent"` to the attribute `gevent` of this
        # module, and wants the pool. That works once: from then on, the attribute is the
        # module, so Celery gets to know the name.
        from importlib import import_module

        from hybrid import _boot

        pool = import_module(f"hybrid.{name}").TaskPool
        _boot.name_pools()
        return pool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
