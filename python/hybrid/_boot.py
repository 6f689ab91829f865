"""What the start-up file runs: patch at the moment when Celery itself would.

Celery patches only for the literal pool names ``gevent`` and ``eventlet``, and knows no pool by
another name. When the command line asks for one of ours, :func:`arm` puts a finder in front of the
others. It finds no module itself; it sees ``celery`` being imported, which is the moment to patch,
and gives our pools their names when ``celery.concurrency`` has been executed.

A tracer or a debugger may have started threads by then. gevent gives threads another identity, and
puts the locks of modules that are being imported right only where there is a single thread. So with
more than one the moment is a little later: when Celery's command, which holds no such lock, calls
``maybe_patch_concurrency``. It is not the moment for all, because a search for locks among all
objects evaluates Celery's proxies, which imports most of Celery before it is patched.

This module is imported by site when Python starts, so it imports nothing but what has been
imported by then.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, Callable

#: What users type after ``-P``, and the hub that it means.
POOLS = {"hybrid.gevent": "gevent", "hybrid.eventlet": "eventlet"}
#: The hub that the command line asks for, until it has been patched for.
_wanted: str | None = None


def arm() -> None:
    """Get ready to patch if the command line of this process asks for one of our pools.

    Calling it again does nothing: in a virtual environment, site runs each file twice.
    """
    global _wanted
    if os.environ.get("HYBRID_NO_BOOT") or _is_armed():
        return
    # Unlike `sys.orig_argv`, without the options of the interpreter, of which one is `-P`.
    argv = getattr(sys, "argv", ())
    if _is_multi(argv):
        return
    _wanted = requested_hub(argv)
    if _wanted is None:
        return
    sys.meta_path.insert(0, _CeleryWatcher())
    if "celery" in sys.modules:
        _replace_patcher()
        _patch_if_safe()
    if "celery.concurrency" in sys.modules:
        name_pools()


def patch(hub: str) -> None:
    """Patch for ``hub`` now, and give our pools their names."""
    global _wanted
    from hybrid.patches import monkey

    monkey.patch(hub)
    if _wanted == hub:
        _wanted = None
    if "celery.concurrency" in sys.modules:
        name_pools()
    elif not _is_armed():
        sys.meta_path.insert(0, _CeleryWatcher())


def wanted() -> str | None:
    """Return the hub that the command line of this process asks for, if we have not patched."""
    return _wanted


def patch_if_wanted() -> None:
    """Patch for the hub that the command line asks for, unless that has been done."""
    global _wanted
    if _wanted is not None:
        hub, _wanted = _wanted, None
        from hybrid.patches import monkey

        monkey.patch(hub)


def name_pools() -> None:
    """Let Celery know our pools by the names that users type; it must have been imported."""
    from hybrid.patches import celery as patches

    aliases = sys.modules["celery.concurrency"].ALIASES
    patches.POOL_NAMES.replace_items(aliases, {name: f"{name}:TaskPool" for name in POOLS})


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


def _is_armed() -> bool:
    return any(isinstance(finder, _CeleryWatcher) for finder in sys.meta_path)


def _patch_if_safe() -> None:
    """Patch in the middle of an import, unless that may leave the lock of a module held."""
    if _count_threads() > 1:
        import threading

        # eventlet leaves Python's import system on native threads.
        is_main = threading.current_thread() is threading.main_thread()
        if _wanted != "eventlet" or not is_main:
            return
    patch_if_wanted()


def _count_threads() -> int:
    # A tracer's threads may be unknown to Python: written in another language, or registered with
    # a `threading` that was imported anew.
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return len(sys._current_frames())


def _replace_patcher() -> None:
    """Let Celery's command patch for our pools where it does so for its own."""
    from hybrid.patches import celery as patches

    # Celery puts another module in the place of the one that was executed.
    celery: Any = sys.modules["celery"]
    celerys_own = celery.maybe_patch_concurrency

    def maybe_patch_concurrency(*args: Any, **kwargs: Any) -> Any:
        patch_if_wanted()
        return celerys_own(*args, **kwargs)

    patches.PATCHER.replace(celery, maybe_patch_concurrency)


class _CeleryWatcher:
    """A finder that notices the imports of ``celery`` and ``celery.concurrency``."""

    def __init__(self) -> None:
        self._then: dict[str, Callable[[], None]] = {"celery.concurrency": name_pools}
        if _wanted is not None:
            self._then["celery"] = _replace_patcher
        #: What other finders are being asked for, with the thread that asks.
        self._asked: set[tuple[str, int]] = set()

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if fullname == "celery":
            _patch_if_safe()
        then = self._then.get(fullname)
        question = (fullname, get_ident())
        if then is None or question in self._asked:
            return None
        # The finders of others, tracers for one, have their say as if we were not there.
        from importlib.util import find_spec

        self._asked.add(question)
        try:
            spec = find_spec(fullname)
        finally:
            self._asked.discard(question)
        # Who finds a module need not execute it: `python -m celery` finds it twice.
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, then)  # type: ignore[assignment]
        return spec


class _Loader:
    """Executes a module as its own loader does, and then does something more."""

    def __init__(self, loader: Any, then: Callable[[], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._then()
