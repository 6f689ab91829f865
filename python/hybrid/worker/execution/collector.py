"""Python's garbage collector, told that a worker makes many objects that live shortly.

By default it looks for cycles whenever 700 more containers have been made than freed, and a worker
that takes 256 messages at a time does so many times a turn, in vain: a sixth of its time.
"""

from __future__ import annotations

import gc

#: What CPython starts with, by version.
_DEFAULTS = frozenset({(700, 10, 10), (2000, 10, 10), (2000, 10, 0)})
#: Containers more than freed after which it looks at the young ones.
THRESHOLD = 10_000


def explain() -> str | None:
    """Say why the collector runs as often as somebody else wants, if it does."""
    if not gc.isenabled():
        return "it is switched off"
    if gc.get_threshold()[0] != THRESHOLD:
        return f"its thresholds have been set to {gc.get_threshold()}"
    return None


def relax() -> str | None:
    """Let the collector run less often, and leave what exists now alone for good.

    Returns:
        Why it is left as it is; ``None`` if it is not.
    """
    young, *older = gc.get_threshold()
    if not gc.isenabled() or (young, *older) not in _DEFAULTS:
        return explain()
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD, *older)
    return None
