"""Tells of jobs that are about to start, which may take its time.

Who may switch: the announcer's own greenlet, in what it tells, and the hub, into that greenlet. It
stays for the next jobs, so that what can be told at once is told in the hub's same turn. No limit
of a job reaches it; when it is ended by somebody, its jobs start all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

from celery.utils.log import get_logger

from hybrid.hubs.base import Greenlet, Hub
from hybrid.worker.execution.job import Job

logger = get_logger("celery.pool")


class Announcer:
    """Tells of some jobs at a time.

    Args:
        hub: The hub that it runs on.
        spelling: What users type after ``-P``.
        tell: Called with jobs. It may block.
        on_told: Called with the same jobs when they may start, whatever has come of it.
    """

    def __init__(
        self,
        hub: Hub,
        spelling: str,
        tell: Callable[[list[Job]], object],
        on_told: Callable[[Sequence[Job]], object],
    ) -> None:
        self._hub = hub
        self._spelling = spelling
        self._tell = tell
        self._on_told = on_told
        #: What is being told of. While there are any, no others are announced.
        self.jobs: Sequence[Job] = ()
        self._greenlet: Greenlet | None = None
        self._told = 0

    def announce(self, jobs: Sequence[Job]) -> None:
        """Tell of ``jobs``. It has been done on return, unless it blocks. For the hub."""
        self.jobs = jobs
        if self._greenlet is None:
            self._greenlet = self._hub.spawn(self._serve)
        else:
            self._hub.resume(self._greenlet)

    def tidy(self) -> None:
        """Begin again, if somebody has killed the greenlet before its first turn."""
        if self._greenlet is not None and self._greenlet.dead:
            self._greenlet = self._hub.spawn(self._serve) if self.jobs else None

    def end(self) -> None:
        """End the greenlet. For when no more jobs come."""
        if self._greenlet is not None:
            self._hub.call_soon(self._hub.resume, self._greenlet, _END)

    def statistics(self) -> dict[str, int]:
        """Return how many jobs are being told of, and how many have been."""
        return {"announced": len(self.jobs), "told": self._told}

    def _serve(self) -> None:
        order: object = None
        try:
            while order is not _END:
                if self.jobs:
                    self._tell_of(self.jobs)
                order = self._hub.park()
        finally:
            self._greenlet = None

    def _tell_of(self, jobs: Sequence[Job]) -> None:
        try:
            self._tell(list(jobs))
        except Exception:
            logger.exception("%s: jobs start that could not be announced", self._spelling)
        finally:
            self._told += len(jobs)
            self.jobs = ()
            self._on_told(jobs)


class _End:
    __slots__ = ()


_END = _End()
