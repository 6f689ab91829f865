"""The ends that others put to a job: time limits, termination, and giving it up.

Who may switch: the timer's greenlets, in a callback that tells of a limit. The rest of this runs
in whatever greenlet it is called from, and neither waits nor switches: a job is interrupted in a
later turn of the hub.
"""

from __future__ import annotations

from time import monotonic
from typing import Callable

from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_logger

from hybrid._rust import Slab
from hybrid.worker.execution.job import AFTER, ENDED, RUNNING, Job, JobKilled, State
from hybrid.worker.execution.timer import Timer

logger = get_logger("celery.pool")

#: Seconds that a killed job gets for its ``finally`` blocks before it is killed again, and one
#: whose function has ended before its limit, to store its outcome.
KILL_GRACE = 5.0
#: After so many kills the pool gives up on a job that swallows them, and frees its place.
KILL_ATTEMPTS = 3


class Limits:
    """Decides, beside what runs a job, how that ends.

    Whoever takes the ticket of a job decides, and exactly one gets it.

    Args:
        timer: What the limits wait in.
        slab: The jobs that run, by ticket.
        spelling: What users type after ``-P``.
        on_abandoned: Called when a job's place is free though it may run on.
    """

    def __init__(
        self, timer: Timer, slab: Slab, spelling: str, on_abandoned: Callable[[], object]
    ) -> None:
        self._timer = timer
        self._slab = slab
        self._spelling = spelling
        self._on_abandoned = on_abandoned
        self._soft = 0
        self._hard = 0
        self._terminated = 0
        self._abandoned = 0

    def watch(self, job: Job) -> None:
        """Start the limits of a job, whose target starts now."""
        now = monotonic()
        limits = []
        if job.soft_timeout:
            limits.append(self._timer.call_at(now + job.soft_timeout, self._on_soft_limit, (job,)))
        if job.timeout:
            limits.append(self._timer.call_at(now + job.timeout, self._on_hard_limit, (job,)))
        job.limits = tuple(limits)

    def settle(self, job: Job) -> bool:
        """Note that the target has ended; tell whether nobody else has decided its outcome."""
        job.runner = None
        for entry in job.limits:
            entry.cancel()
        if self._slab.take(job.ticket) is None:
            return False
        job.state = ENDED
        return True

    def report(self, job: Job) -> None:
        """Tell that a job has passed its hard limit, if it has and that has not been told."""
        if job.state is State.TIMED_OUT:
            job.state = State.REPORTED
            if job.timeout_callback is not None:
                job.timeout_callback(False, job.timeout)

    def terminate(self, ticket: int) -> bool:
        """End the job behind ``ticket``, if nobody has, in the hub's next turn; tell whether."""
        job = self._slab.take(ticket)
        if job is None:
            return False
        job.state = State.TERMINATED
        self._terminated += 1
        self._kill(job)
        return True

    def statistics(self) -> dict[str, int]:
        """Return how many jobs can be ended now, and how many have been in each way."""
        return {
            "open": len(self._slab),
            "soft-limits": self._soft,
            "hard-limits": self._hard,
            "terminated": self._terminated,
            "abandoned": self._abandoned,
        }

    # -- in the timer

    def _on_soft_limit(self, job: Job) -> None:
        if job.state is not RUNNING or job.part is AFTER:
            return
        self._soft += 1
        # Before the callback: it may block, or raise.
        job.interrupt(SoftTimeLimitExceeded)
        if job.timeout_callback is not None:
            job.timeout_callback(True, job.soft_timeout)

    def _on_hard_limit(self, job: Job, anywhere: bool = False) -> None:
        if job.part is AFTER and not anywhere:
            again = self._timer.call_after(KILL_GRACE, self._on_hard_limit, (job, True))
            job.limits = (*job.limits, again)
        elif self._slab.take(job.ticket) is not None:
            job.state = State.TIMED_OUT
            self._hard += 1
            self._kill(job, anywhere)

    def _kill(self, job: Job, anywhere: bool = False, attempt: int = 1) -> None:
        """End the target of a job whose ticket has been taken, and see to it that it does."""
        if job.runner is None:
            return  # it has ended, or is never called
        # Should the function end before it gets to know, or swallow it.
        job.owed = JobKilled
        is_late = attempt > 1 and job.state is State.TIMED_OUT
        if is_late:
            job.state = State.REPORTED
        if attempt > KILL_ATTEMPTS:
            self._abandon(job)
        else:
            job.interrupt(JobKilled, anywhere)
            self._timer.call_after(KILL_GRACE, self._kill, (job, True, attempt + 1))
        if is_late and job.timeout_callback is not None:
            # It may swallow whatever it gets: its limit is told all the same.
            job.timeout_callback(False, job.timeout)

    def _abandon(self, job: Job) -> None:
        job.state = State.ABANDONED
        self._abandoned += 1
        self._on_abandoned()
        logger.error(
            "%s: %r swallowed %d attempts to end it and may run on; its place is free again. "
            "Let %s pass in the task's except clauses",
            self._spelling,
            job,
            KILL_ATTEMPTS,
            JobKilled.__name__,
        )
