"""Event loops behind one contract, :class:`hybrid.hubs.base.Hub`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hybrid.hubs.base import Hub

NAMES: Final = ("gevent", "eventlet")

_hubs: dict[str, Hub] = {}


def get(name: str) -> Hub:
    """Return this process's hub called ``name``, importing its library on first use.

    Raises:
        ValueError: ``name`` is not one of :data:`NAMES`.
        ImportError: The library behind ``name`` is not installed.
    """
    if name not in NAMES:
        raise ValueError(f"no hub is called {name!r}; choose one of {', '.join(NAMES)}")
    hub = _hubs.get(name)
    if hub is None:
        module = import_module(f"hybrid.hubs.{name}")
        hub = _hubs[name] = module.create()
    return hub


def running() -> Hub | None:
    """Return the hub that this process's pool runs on; ``None`` where there is no such pool."""
    for hub in _hubs.values():
        return hub
    return None
