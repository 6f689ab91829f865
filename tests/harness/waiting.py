"""Waiting with a bound, so that a broken worker costs seconds and not the whole run."""

from __future__ import annotations

import time
from typing import Callable, TypeVar

T = TypeVar("T")


class TooLateError(AssertionError):
    """Something that should have happened did not happen in time.

    An assertion, so that it is what a ``stock_fails`` test expects a stock pool to raise.
    """


def eventually(read: Callable[[], T], what: str, within: float = 15.0, every: float = 0.02) -> T:
    """Return the first truthy value of ``read()``.

    Args:
        read: Called again and again; must not block for long.
        what: Completes the sentence "waited … seconds for …".
        within: Seconds until this gives up.
        every: Seconds between two calls; grows to ten times as much.

    Raises:
        TooLateError: ``read()`` stayed falsy.
    """
    deadline = time.monotonic() + within
    pause = every
    while True:
        value = read()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TooLateError(f"waited {within:g} seconds for {what}; last value: {value!r}")
        time.sleep(pause)
        pause = min(pause * 1.3, every * 10)
