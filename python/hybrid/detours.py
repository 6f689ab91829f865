"""What goes Celery's, kombu's or redis-py's own way instead of ours, counted by piece and cause.

Who takes such a way counts it, so what stays on ours pays nothing. ``inspect stats`` shows it.
"""

from __future__ import annotations

#: Causes that are told apart for a piece; the rest are counted together.
CAUSES = 50
OTHERS = "other causes"

_all: dict[str, Detours] = {}


class Detours:
    """Those of one piece, since the process has begun.

    Args:
        piece: Its name, as in ``hybrid_disable``.
    """

    def __init__(self, piece: str) -> None:
        self._counts: dict[str, int] = {}
        _all[piece] = self

    def note(self, cause: str | None, count: int = 1) -> None:
        """Take note of ``count`` for the same cause, if there is one."""
        if cause is not None:
            counts = self._counts
            if cause not in counts and len(counts) >= CAUSES:
                cause = OTHERS
            counts[cause] = counts.get(cause, 0) + count

    def statistics(self) -> dict[str, int]:
        """Return how many there were, by cause."""
        return dict(self._counts)


EVENTS = Detours("events")
LOGS = Detours("logs")
PUBLISH = Detours("publish")
RESULTS = Detours("results")
STRATEGY = Detours("strategy")
TRACE = Detours("trace")
TRANSPORT = Detours("transport")


def statistics() -> dict[str, dict[str, int]]:
    """Return those of all pieces that have some."""
    found = {piece: detours.statistics() for piece, detours in _all.items()}
    return {piece: counts for piece, counts in found.items() if counts}
