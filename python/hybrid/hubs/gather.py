"""Gathers what many greenlets want done at the same time, so that it is done at once.

A group is whatever has been submitted while the group before it was being performed: under load
groups are large, on an idle worker a group is one, and nothing waits for a group to fill.
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

    def __init__(self, item: Item, greenlet: Greenlet | None) -> None:
        self.item = item
        self.greenlet = greenlet
        self.outcome: Any = None
        self.is_done = False


class Gather(Generic[Item]):
    """One kind of work that is done in groups, in the order of submission.

    Belongs to the hub's thread. The first in a turn of the hub does its own item at once; what
    comes after it is done by a greenlet of its own, so that nobody is killed while it does the
    work of others.

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
        self._is_first = True

    def is_free(self) -> bool:
        """Tell whether :meth:`submit` would do an item at once."""
        return self._is_first and not self._is_serving

    def submit(self, item: Item) -> Any:
        """Have ``item`` done, and return its outcome. Blocks the calling greenlet.

        Raises:
            Exception: The outcome, if it is an exception.
        """
        if self.is_free():
            return self._do_alone(item)
        entry = _Entry(item, self._hub.current())
        self._waiting.append(entry)
        self._start_serving()
        try:
            while not entry.is_done:
                self._hub.park()
        finally:
            entry.greenlet = None  # whoever was killed waits for something else now
        if isinstance(entry.outcome, BaseException):
            raise entry.outcome
        return entry.outcome

    def post(self, item: Item) -> None:
        """Have ``item`` done without waiting for it: with what is submitted next, or when this turn
        of the hub is over. Nobody gets the outcome.
        """
        self._waiting.append(_Entry(item, None))
        if not self._is_serving:
            # Once more around: what is scheduled already may submit something.
            self._hub.call_soon(self._hub.call_soon, self._serve_posted)

    def _serve_posted(self) -> None:
        if self._waiting:
            self._start_serving()

    def _start_serving(self) -> None:
        if not self._is_serving:
            self._is_serving = True
            self._hub.spawn(self._serve)

    def _do_alone(self, item: Item) -> Any:
        self._is_serving = True
        # It may never give way to others: the server's answer may be there before one looks.
        self._is_first = False
        self._hub.call_soon(self._begin_turn)
        posted = list(self._waiting)
        self._waiting.clear()
        try:
            *_, outcome = self._perform([*(entry.item for entry in posted), item])
        except BaseException as exc:
            if not isinstance(exc, Exception):  # somebody kills the submitter alone
                self._waiting.extendleft(reversed(posted))
            raise
        finally:
            self._is_serving = False
            if self._waiting:
                self._start_serving()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _begin_turn(self) -> None:
        self._is_first = True

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
                entry.outcome = copied(exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            self._hub.call_soon(self._resume, group)

    def _resume(self, group: list[_Entry[Item]]) -> None:
        for entry in group:
            entry.is_done = True
            if entry.greenlet is not None:
                entry.greenlet.switch()


def copied(exc: BaseException) -> BaseException:
    """Return an exception like ``exc`` for another greenlet to raise."""
    try:
        return copy.copy(exc).with_traceback(None)
    except Exception:
        pass  # its class wants other arguments than those that it keeps, as some of gevent's do
    cls = type(exc)
    try:
        other = cls.__new__(cls)
        (OSError if isinstance(exc, OSError) else BaseException).__init__(other, *exc.args)
        other.__dict__.update(exc.__dict__)
    except Exception:
        return exc
    return other
