"""Bounded pools in which nobody waits for a place while holding another.

kombu's pools keep everybody waiting for whom there is no free place, also those who hold one that
others wait for: ten tasks that hold one of ten connections each, and want another before they give
theirs back, stand still for ever. Here who holds a place is never kept waiting: where none is free,
another is lent beyond the limit, and closed when it comes back.

So the bound on the places of a pool is its limit for those who hold nothing, and :data:`NESTED` for
each of these.

Who may switch: a greenlet that holds nothing, in :meth:`Places.acquire`, where it may be ended: the
hubs' queues hand a place to a greenlet in the moment in which it goes on, so that none is lost.
"""

from __future__ import annotations

import threading
from typing import Any

from kombu.connection import ConnectionPool as KombuConnectionPool
from kombu.resource import Resource
from kombu.utils.functional import lazy

#: Places that one greenlet gets without waiting. Whoever has more has forgotten to give some back.
NESTED = 10


class Places(Resource):  # type: ignore[misc]
    """kombu's bounded pool, which lends to those who hold a place instead of letting them wait."""

    #: Other pools: who holds a place in one of these is not kept waiting here either.
    peers: tuple[Places, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: How many places each greenlet holds that holds any.
        self._held: dict[int, int] = {}

    @property
    def holders(self) -> int:
        """How many greenlets hold places."""
        return len(self._held)

    def acquire(self, block: bool = False, timeout: float | None = None) -> Any:
        """Take a place; the arguments are kombu's.

        Raises:
            kombu.exceptions.LimitExceeded: None is free, and the caller does not want to wait, or
                has waited for ``timeout`` seconds.
        """
        if not self.limit:
            return super().acquire(block, timeout)
        if not self._resource.queue and self._is_lent(block):
            self._resource.put_nowait(self.new())
            block = False
        resource = super().acquire(block, timeout)
        resource.holder = holder = threading.get_ident()
        self._held[holder] = self._held.get(holder, 0) + 1
        return resource

    def release(self, resource: Any) -> None:
        """Take a place back, or close it if it was beyond the limit."""
        self._let_go(resource)
        if not self.limit or not self.is_beyond_limit(resource):
            super().release(resource)
        elif resource in self._dirty:
            self._dirty.discard(resource)
            self.close_resource(resource)

    def replace(self, resource: Any) -> None:
        """Close what somebody was ended with. Its place remains, whatever comes of that."""
        self._let_go(resource)
        try:
            super().replace(resource)
        except BaseException:
            # kombu gives it back afterwards, which it does not come to now.
            if self.limit:
                self._resource.put_nowait(lazy(self.new))
            raise

    def force_close_all(self, *args: Any, **kwargs: Any) -> None:
        """Close all resources, also those in use; the arguments are kombu's."""
        self._held.clear()
        super().force_close_all(*args, **kwargs)

    def is_beyond_limit(self, resource: Any) -> bool:
        """Tell whether there are enough places without that of ``resource``."""
        others = len(self._dirty) - (resource in self._dirty)
        return bool(len(self._resource.queue) + others >= self.limit)

    def _is_lent(self, block: bool) -> bool:  # noqa: ARG002
        """Tell whether the caller, who may wait if ``block``, is lent a place beyond the limit.

        Who holds a place is, since others may wait for that one.
        """
        caller = threading.get_ident()
        held = sum(pool._held.get(caller, 0) for pool in (self, *self.peers))
        return 0 < held < NESTED

    def _let_go(self, resource: Any) -> None:
        """Take note that nobody holds ``resource`` any more."""
        holder: int | None = getattr(resource, "holder", None)
        resource.holder = None
        if holder is not None and holder in self._held:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]


class ConnectionPool(KombuConnectionPool, Places):  # type: ignore[misc]
    """kombu's pool of connections, for whoever asks the app for one."""


class ProducerConnections(ConnectionPool):
    """The connections of a pool of producers, whose limit is theirs: each producer finds one.

    They are its own. One of ``app.pool`` may be held by a task that waits for its producer.
    """

    def _is_lent(self, block: bool) -> bool:  # noqa: ARG002
        return True
