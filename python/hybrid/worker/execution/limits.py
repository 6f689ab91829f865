"""The ends that others put to a job: time limits, termination, and giving it up."""

from __future__ import annotations

from typing import Any, Callable

from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_logger

from hybrid._rust import Slab
from hybrid.hubs.base import Hub
from hybrid.worker.execution.job import ENDED, KILLED, RUNNING, Job, JobKilled
from hybrid.worker.execution.timer import Timer

logger = get_logger("celery.pool")

#: Seconds that a killed job gets for its ``finally`` blocks before it is killed again.
KILL_GRACE = 5.0
#: After so many kills the pool gives up on a job that swallows them, and frees its place.
KILL_ATTEMPTS = 3


class Limits:
    """Decides, beside its slot, how a job ends.

    Args:
        hub: The hub that the jobs run on.
        timer: What the limits wait in.
        slab: The jobs that run, by ticket.
        spelling: What users type after ``-P``.
        on_abandoned: Called when a job's place is free though it may run on.
    """

    def __init__(
        self,
        hub: Hub,
        timer: Timer,
        slab: Slab,
        spelling: str,
        on_abandoned: Callable[[], object],
    ) -> None:
        self._hub = hub
        self._timer = timer
        self._slab = slab
        self._spelling = spelling
        self._on_abandoned = on_abandoned
        self._abandoned = 0

    def terminate(self, ticket: int) -> None:
        """End the job behind ``ticket``, if it has not ended."""
        job = self._slab.take(ticket)
        if job is not None:
            self._kill(job)

    def settle(self, job: Job) -> bool:
        """Mark the target as ended; tell whether nobody else has decided its outcome."""
        job.state = ENDED
        for entry in job.limits:
            entry.cancel()
        return self._slab.take(job.ticket) is not None

    # -- limits

    def arm(self, job: Job, now: float) -> tuple[Any, ...]:
        """Start the limits of a job ``now``, and return what cancels them."""
        limits = []
        if job.soft_timeout:
            limits.append(self._timer.call_at(now + job.soft_timeout, self._on_soft_limit, (job,)))
        if job.timeout:
            limits.append(self._timer.call_at(now + job.timeout, self._on_hard_limit, (job,)))
        return tuple(limits)

    def _on_soft_limit(self, job: Job) -> None:
        if job.state is not RUNNING:
            return
        if job.timeout_callback is not None:
            job.timeout_callback(True, job.soft_timeout)
        self._hub.call_soon(self._throw, job, RUNNING, SoftTimeLimitExceeded)

    def _on_hard_limit(self, job: Job) -> None:
        if self._slab.take(job.ticket) is not None:
            job.timed_out = True
            self._kill(job)

    def report(self, job: Job) -> None:
        """Tell that a job has passed its hard limit, once."""
        if not job.timeout_reported:
            job.timeout_reported = True
            if job.timeout_callback is not None:
                job.timeout_callback(False, job.timeout)

    # -- ends

    def _kill(self, job: Job, attempt: int = 1) -> None:
        """End a job whose ticket the caller has taken."""
        if attempt == 1:
            job.killed = True
            job.state = KILLED
        elif job.state is not KILLED:
            return  # it has ended since
        elif job.timed_out:
            # It may swallow whatever it gets: its limit is reported all the same.
            self.report(job)
        if attempt > KILL_ATTEMPTS:
            self._abandon(job)
            return
        self._hub.call_soon(self._throw, job, KILLED, JobKilled)
        self._timer.call_after(KILL_GRACE, self._kill, (job, attempt + 1))

    def _throw(self, job: Job, state: int, exc_type: type[BaseException]) -> None:
        """Raise in the target of ``job``, if it is still in ``state``. Runs in the hub."""
        if job.state is state and job.greenlet is not None:
            job.greenlet.throw(exc_type)

    def _abandon(self, job: Job) -> None:
        logger.error(
            "%s: %r swallowed %d attempts to end it and may run on; its place is free again. "
            "Let %s pass in the task's except clauses",
            self._spelling,
            job,
            KILL_ATTEMPTS,
            JobKilled.__name__,
        )
        job.abandoned = True
        self._abandoned += 1
        self._on_abandoned()

    def statistics(self) -> dict[str, int]:
        """Return how many jobs have been given up."""
        return {"abandoned": self._abandoned}
