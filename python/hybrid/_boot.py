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
    """Get ready to patch if the command line of this process asks for one of our pools."""
    if os.environ.get("HYBRID_NO_BOOT"):
        return
    argv = getattr(sys, "orig_argv", None) or sys.argv
    if "multi" in argv:  # it starts the workers, and is none itself
        return
    pool = requested_pool(argv)
    if pool == "custom":
        pool = os.environ.get("CELERY_CUSTOM_WORKER_POOL", "").partition(":")[0]
    if pool in POOLS:
        sys.meta_path.insert(0, _CeleryWatcher(POOLS[pool]))


def patch(hub: str) -> None:
    """Patch for ``hub`` now, and give our pools their names."""
    from hybrid import patching

    patching.patch(hub)
    concurrency = sys.modules.get("celery.concurrency")
    if concurrency is not None:
        _name_pools(concurrency)
    elif not any(isinstance(finder, _CeleryWatcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _CeleryWatcher(None))


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


def _name_pools(concurrency: ModuleType) -> None:
    for name in POOLS:
        concurrency.ALIASES[name] = f"{name}:TaskPool"


class _CeleryWatcher:
    """A finder that notices the imports of ``celery`` and ``celery.concurrency``."""

    def __init__(self, hub: str | None) -> None:
        self._hub = hub

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "celery" and self._hub is not None:
            hub, self._hub = self._hub, None
            from hybrid import patching

            patching.patch(hub)
        elif fullname == "celery.concurrency":
            sys.meta_path.remove(self)
            from importlib.machinery import PathFinder

            spec = PathFinder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _NamingLoader(spec.loader)
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
        _name_pools(module)
