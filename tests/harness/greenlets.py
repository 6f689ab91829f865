"""Many greenlets at a time, for tests in a patched interpreter."""

from __future__ import annotations

from typing import Any, Callable

from hybrid.hubs.base import Hub


def in_greenlets(hub: Hub, run: Callable[[int], Any], count: int) -> list[Any]:
    """Return what ``run(number)`` returns or raises in each of ``count`` greenlets."""
    outcomes: list[Any] = [None] * count
    left = [count]

    def record(number: int) -> None:
        try:
            outcomes[number] = run(number)
        except BaseException as exc:
            outcomes[number] = exc
        left[0] -= 1

    for number in range(count):
        hub.spawn(record, number)
    while left[0]:
        hub.sleep(0.001)
    return outcomes
