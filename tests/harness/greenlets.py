"""Many greenlets at a time, for tests in a patched interpreter."""

from __future__ import annotations

import time
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


def until(hub: Hub, condition: Callable[[], Any], seconds: float = 5.0) -> Any:
    """Let the others run until a condition holds, and return what it says."""
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up, f"not within {seconds} s"
        hub.sleep(0.001)
    return found
