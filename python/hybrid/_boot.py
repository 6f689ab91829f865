"""What the start-up file runs: patch at the moment when Celery itself would.

Celery patches only for the literal pool names ``gevent`` and ``eventlet``, and knows no
pool by another name. When the command line asks for one of ours, :func:`arm` puts a finder
in front of the others. It finds no module itself; it only notices that ``celery`` is being
imported, which is when Celery patches for its own pools, and gives our pools their names
when ``celery.concurrency`` has been executed.

This module is imported by site when Python starts, so it imports nothing but what has been
imported by then.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

#: What users type after ``-P``, and the hub that it means.
POOLS = {"hybrid.gevent": "gevent", "hybrid.eventlet": "eventlet"}


def arm() -> None:
    """Get ready to patch if the command line of this process asks for one of our pools.

    Calling it again does nothing: in a virtual environment, site runs each file twice.
    """
    if os.environ.get("HYBRID_NO_BOOT") or _watcher() is not None:
        return
    # Unlike `sys.orig_argv`, without the options of the interpreter, of which one is `-P`.
    argv = getattr(sys, "argv", ())
    if _is_multi(argv):
        return
    hub = requested_hub(argv)
    if hub is None:
        return
    if "celery" in sys.modules:
        patch(hub)
    else:
        sys.meta_path.insert(0, _CeleryWatcher(hub))


def patch(hub: str) -> None:
    """Patch for ``hub`` now, and give our pools their names."""
    from hybrid import patching

    patching.patch(hub)
    if "celery.concurrency" in sys.modules:
        name_pools()
    elif _watcher() is None:
        sys.meta_path.insert(0, _CeleryWatcher(None))


def name_pools() -> None:
    """Let Celery know our pools by the names that users type; it must have been imported."""
    aliases = sys.modules["celery.concurrency"].ALIASES
    for name in POOLS:
        aliases[name] = f"{name}:TaskPool"


def requested_hub(argv: Sequence[str]) -> str | None:
    """Return the hub of the pool that a command line asks for, if it is one of ours."""
    pool = requested_pool(argv)
    if pool == "custom":
        pool = os.environ.get("CELERY_CUSTOM_WORKER_POOL", "").partition(":")[0]
    return POOLS.get(pool) if pool else None


def requested_pool(argv: Sequence[str]) -> str | None:
    """Return the value of ``-P`` or ``--pool`` in any of the spellings that Celery takes.

    Those are ``-P x``, ``-Px``, ``--pool x`` and ``--pool=x``, and ``-P`` behind other short
    options without a value, as in ``-EP x``.
    """
    for index, arg in enumerate(argv):
        name, equals, value = arg.partition("=")
        if name == "--pool":
            if equals:
                return value
        elif arg.startswith("-") and not arg.startswith("--") and "P" in arg:
            flags, _, value = arg[1:].partition("P")
            if flags.strip("BDE"):
                continue
            if value:
                return value
        else:
            continue
        return argv[index + 1] if index + 1 < len(argv) else None
    return None


def _is_multi(argv: Sequence[str]) -> bool:
    """Tell whether this is ``celery multi``, which starts the workers and is none itself."""
    for before, arg in zip(argv, argv[1:]):
        if arg in ("worker", "multi") and before not in ("-A", "--app"):
            return arg == "multi"
    return False


def _watcher() -> _CeleryWatcher | None:
    return next((found for found in sys.meta_path if isinstance(found, _CeleryWatcher)), None)


class _CeleryWatcher:
    """A finder that notices the imports of ``celery`` and ``celery.concurrency``."""

    def __init__(self, hub: str | None) -> None:
        self._hub = hub

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if fullname == "celery" and self._hub is not None:
            hub, self._hub = self._hub, None
            from hybrid import patching

            patching.patch(hub)
        elif fullname == "celery.concurrency":
            sys.meta_path.remove(self)
            # The finders of others, tracers for one, have their say as if we were not there.
            from importlib.util import find_spec

            spec = find_spec(fullname)
            if spec is not None and spec.loader is not None:
                spec.loader = _NamingLoader(spec.loader)  # type: ignore[assignment]
            return spec
        return None


class _NamingLoader:
    """Executes ``celery.concurrency`` as its own loader does, then names our pools."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        name_pools()
