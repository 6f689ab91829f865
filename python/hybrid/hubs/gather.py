"""Gathers what many greenlets want done at the same time, so that it is done at once.

A group is whatever has been submitted while the group before it was being performed: under load
groups are large, on an idle worker a group is one, and nothing waits for a group to fill.

Who may switch: the gatherer's own greenlet, while it performs a group; and those who submit, while
they wait for their outcome. A group is never performed in the greenlet of a submitter: a limit that
ends one task must not end the work of others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Callable, Generic, TypeVar

from hybrid.errors import WorkLostError
from hybrid.hubs.base import Hub
from hybrid.hubs.parking import Place, copied
from hybrid.hubs.service import Service

Item = TypeVar("Item")

#: Items in one group.
GROUP_LIMIT = 1024


class Gather(Generic[Item]):
    """One kind of work that is done in groups, in the order of submission.

    Belongs to the hub's thread.

    Args:
        hub: The hub that the submitters run on.
        perform: Does a group, and may block. Returns one outcome per item, in their order; an
            exception among them is raised in the greenlet that submitted that item. What it
            raises itself is raised in all of them.
    """

    def __init__(self, hub: Hub, perform: Callable[[list[Item]], Sequence[Any]]) -> None:
        self._hub = hub
        self._perform = perform
        #: What is to be done, and who waits for it.
        self._pending: deque[tuple[Item, Place | None]] = deque()
        self._service = Service(hub, self._pending.__len__, self._serve_group)
        self._groups = 0
        self._items = 0
        self._largest = 0

    def submit(self, item: Item) -> Any:
        """Have ``item`` done, and return its outcome. Blocks the calling greenlet.

        A submitter that is ended while it waits has abandoned its item, which is done all the same.

        Raises:
            BaseException: The outcome, if it is an exception.
            hybrid.errors.WorkLostError: Somebody has ended the gatherer's greenlet meanwhile.
        """
        place = Place(self._hub)
        self._add(item, place)
        return place.wait()

    def post(self, item: Item) -> None:
        """Have ``item`` done without waiting for it. Nobody gets the outcome."""
        self._add(item, None)

    @property
    def is_serving(self) -> bool:
        """Whether a group is being performed, or about to be."""
        return self._service.is_busy

    def statistics(self) -> dict[str, int]:
        """Return how much waits and was done so far: groups, their items, the largest of them."""
        return {
            "pending": len(self._pending),
            "groups": self._groups,
            "items": self._items,
            "largest": self._largest,
        }

    def _add(self, item: Item, place: Place | None) -> None:
        self._pending.append((item, place))
        self._service.wake()

    def _serve_group(self) -> None:
        """Perform what has been submitted by now."""
        pending = self._pending
        size = min(len(pending), GROUP_LIMIT)
        group = [pending.popleft() for _ in range(size)]
        self._groups += 1
        self._items += size
        self._largest = max(self._largest, size)
        try:
            outcomes = self._perform([item for item, _ in group])
            if len(outcomes) != len(group):
                raise RuntimeError(f"{len(outcomes)} outcomes for {len(group)} items")
        except Exception as exc:
            for _, place in group:
                if place is not None:
                    place.fail(copied(exc))
        except BaseException as exc:
            # It is this greenlet that was to end, and nobody else.
            for _, place in group:
                if place is not None:
                    place.fail(WorkLostError(f"whoever did this was ended by {exc!r}"))
            raise
        else:
            for (_, place), outcome in zip(group, outcomes):
                if place is None:
                    continue
                if isinstance(outcome, BaseException):
                    place.fail(outcome)
                else:
                    place.tell(outcome)
