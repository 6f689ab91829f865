"""The one setting of our own: ``hybrid_disable``, the pieces that are left to Celery and kombu."""

from __future__ import annotations

from typing import Any

from celery.exceptions import ImproperlyConfigured

#: What can be named in ``hybrid_disable``, and what it means.
PIECES = {
    "asyncio": "keeping the event loops of asyncio that run in different greenlets apart",
    "events": "sending task events in groups",
    "gc": "running Python's garbage collector less often",
    "logs": "writing the INFO lines of tasks in groups",
    "publish": "publishing many messages per round trip",
    "results": "one result backend, on one connection, for all greenlets",
    "strategy": "our request and message handler",
    "trace": "cheaper parts for Celery's tracer",
    "transport": "many messages and acknowledgements per round trip, decoded in Rust",
}
SWITCHED_OFF = "switched off by the setting hybrid_disable"


def disabled(app: Any) -> frozenset[str]:
    """Return the pieces that ``app`` wants to do without.

    Raises:
        ImproperlyConfigured: The setting is no collection of the names of pieces.
    """
    value = app.conf.get("hybrid_disable") or ()
    names = value.replace(",", " ").split() if isinstance(value, str) else value
    try:
        pieces = frozenset(names)
        unknown = sorted(map(repr, pieces - PIECES.keys()))
    except TypeError:
        unknown = [repr(value)]
    if unknown:
        raise ImproperlyConfigured(
            f"hybrid_disable names {', '.join(unknown)}; choose from {', '.join(PIECES)}"
        )
    return pieces
