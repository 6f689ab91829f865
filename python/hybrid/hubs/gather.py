"""Gathers what many greenlets want done at the same time, so that it is done at once.

A group is whatever has been submitted by the end of the hub's turn, or while the group before it
was being performed: under load groups are large, on an idle worker a group is one, and nothing
waits for a group to fill.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from typing import Any, Callable, Generic, TypeVar

from hybrid.hubs.base import Greenlet, Hub

Item = TypeVar("Item")

#: Items in one group.
GROUP_LIMIT = 1024


class _Entry(Generic[Item]):
    __slots__ = ("greenlet", "is_done", "item", "outcome")

    def __init__(self, item: Item, greenlet: Greenlet) -> None:
        self.item = item
        self.greenlet: Greenlet | None = greenlet
        self.outcome: Any = None
        self.is_done = False


class Gather(Generic[Item]):
    """One kind of work that is done in groups, in the order of submission.

    Belongs to the hub's thread. A greenlet of its own performs the groups, so a submitter that
    is killed while it waits breaks no group.

    Args:
        hub: The hub that the submitters run on.
        perform: Does a group, and may block. Returns one outcome per item, in their order; an
            exception among them is raised in the greenlet that submitted that item. What it
            raises itself is raised in all of them.
    """

    def __init__(self, hub: Hub, perform: Callable[[list[Item]], Sequence[Any]]) -> None:
        self._hub = hub
        self._perform = perform
        self._waiting: deque[_Entry[Item]] = deque()
        self._is_serving = False

    def submit(self, item: Item) -> Any:
        """Have ``item`` done, and return its outcome. Blocks the calling greenlet.

        Raises:
            Exception: The outcome, if it is an exception.
        """
        entry = _Entry(item, self._hub.current())
        self._waiting.append(entry)
        if not self._is_serving:
            self._is_serving = True
            self._hub.spawn(self._serve)
        try:
            while not entry.is_done:
                self._hub.park()
        finally:
            entry.greenlet = None  # whoever was killed waits for something else now
        if isinstance(entry.outcome, BaseException):
            raise entry.outcome
        return entry.outcome

    def _serve(self) -> None:
        """Perform groups until nobody waits."""
        waiting = self._waiting
        try:
            while waiting:
                group = [waiting.popleft() for _ in range(min(len(waiting), GROUP_LIMIT))]
                self._settle(group)
        finally:
            self._is_serving = False

    def _settle(self, group: list[_Entry[Item]]) -> None:
        try:
            outcomes = self._perform([entry.item for entry in group])
            for entry, outcome in zip(group, outcomes):
                entry.outcome = outcome
        except BaseException as exc:
            for entry in group:
                # One instance raised in many greenlets would collect all their tracebacks.
                entry.outcome = _copied(exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            self._hub.call_soon(self._resume, group)

    def _resume(self, group: list[_Entry[Item]]) -> None:
        for entry in group:
            entry.is_done = True
            if entry.greenlet is not None:
                entry.greenlet.switch()


def _copied(exc: BaseException) -> BaseException:
    try:
        return copy.copy(exc).with_traceback(None)
    except Exception:  # an exception that its own arguments do not make
        return exc
