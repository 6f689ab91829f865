"""Slots: greenlets that outlive the jobs that they run.

Nothing is spawned per task, and thread-locals (HTTP sessions, database connections) live as long
as the slot.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Callable

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.utils.log import get_logger
from greenlet import GreenletExit

from hybrid._rust import Slab
from hybrid.hubs.base import Greenlet, Hub
from hybrid.worker.execution.job import RUNNING, Job, JobKilled
from hybrid.worker.execution.limits import Limits

logger = get_logger("celery.pool")

#: Seconds after which a slot without a job ends.
SLOT_IDLE = 60.0


class Slots:
    """The slots of a pool.

    Args:
        hub: The hub that they run on.
        slab: The jobs that run, by ticket.
        limits: What else ends them.
        spelling: What users type after ``-P``.
        take_next: Returns the next job that may start, if there is one.
        on_accepted: Called when a job has been accepted.
        on_finished: Called when a slot is through with a job.
    """

    def __init__(
        self,
        hub: Hub,
        slab: Slab,
        limits: Limits,
        spelling: str,
        take_next: Callable[[], Job | None],
        on_accepted: Callable[[], object],
        on_finished: Callable[[Job], object],
    ) -> None:
        self._hub = hub
        self._slab = slab
        self._limits = limits
        self._spelling = spelling
        self._take_next = take_next
        self._on_accepted = on_accepted
        self._on_finished = on_finished
        self._idle: list[tuple[Greenlet, float]] = []
        #: The first jobs of slots that have not begun. Given to `spawn` as an argument, a job
        #: would live as long as its slot.
        self._first_jobs: deque[Job] = deque()
        self._slots = 0
        self._slots_created = 0

    def run(self, job: Job) -> None:
        """Have a slot run ``job``. For the hub."""
        if self._idle:
            self._idle.pop()[0].switch(job)
        else:
            self._slots += 1
            self._slots_created += 1
            self._first_jobs.append(job)
            self._hub.spawn(self._serve)

    def end(self) -> None:
        """End the slots that have no job."""
        for slot, _ in self._idle:
            self._hub.call_soon(slot.switch, _END)
        self._idle.clear()

    def retire_idle(self) -> None:
        """End the slots that have had no job for a while."""
        before = monotonic() - SLOT_IDLE
        idle = self._idle
        # Slots are reused last in, first out: the longest idle come first.
        while idle and idle[0][1] < before:
            self._hub.call_soon(idle.pop(0)[0].switch, _END)

    def statistics(self) -> dict[str, int]:
        """Return how many slots there are, and how many there have been."""
        return {"slots": self._slots, "slots-created": self._slots_created}

    def _serve(self) -> None:
        """Run jobs until told to end: the life of a slot."""
        me = self._hub.current()
        job: Job | None = self._first_jobs.popleft()
        try:
            while job is not None:
                job.greenlet = me
                try:
                    job.context.run(self._run, job)
                except Exception:
                    logger.exception("%s: a callback of %r raised", self._spelling, job)
                finally:
                    self._on_finished(job)
                if job.killed:
                    # Its thread-locals may hold half-used connections.
                    return
                # Going on without a switch saves a third of a job's cost. But a slot that has
                # not begun has an earlier job.
                job = None if self._first_jobs else self._take_next()
                if job is None:
                    job = self._wait_for_job(me)
        finally:
            self._slots -= 1

    def _wait_for_job(self, me: Greenlet) -> Job | None:
        """Park until there is a job for this slot, or ``None`` for its end."""
        self._idle.append((me, monotonic()))
        try:
            while True:
                order = self._hub.park()
                if type(order) is Job:
                    return order
                if order is _END:
                    return None
                # else it is a switch of somebody else's
        except BaseException:  # killed from outside
            self._idle[:] = [held for held in self._idle if held[0] is not me]
            raise

    def _run(self, job: Job) -> None:
        now = monotonic()
        soft, hard = job.soft_timeout, job.timeout
        job.ticket = self._slab.insert(
            job, now, now + soft if soft else None, now + hard if hard else None
        )
        job.state = RUNNING
        try:
            if job.accept_callback is not None:
                job.accept_callback(job.ticket, now)
                self._on_accepted()
            if job.state is RUNNING:  # else it was revoked while Celery accepted it
                if soft or hard:
                    # The broker may take its time over an acknowledgement: not the target's.
                    job.limits = self._limits.arm(job, monotonic())
                result = job.target(*job.args, **job.kwargs)
        except BaseException as exc:
            self._on_raised(job, exc)
        else:
            if self._limits.settle(job):
                if job.callback is not None:
                    job.callback(result)
            elif job.timed_out:
                self._limits.report(job)

    def _on_raised(self, job: Job, exc: BaseException) -> None:
        """Report what left the target. Celery's tracer handles the errors of the task."""
        settled = self._limits.settle(job)
        if isinstance(exc, (WorkerShutdown, WorkerTerminate)):
            raise exc
        if not settled:
            if job.timed_out:
                self._limits.report(job)
            if not (job.killed and isinstance(exc, JobKilled)):
                logger.debug("%s: %r ended with %r after it was killed", self._spelling, job, exc)
            return
        einfo = _lost(exc) if isinstance(exc, _LOST) else ExceptionInfo()
        if job.error_callback is not None:
            job.error_callback(einfo)
        else:
            logger.error("%s: %r raised: %r", self._spelling, job, exc, exc_info=exc)


class _End:
    __slots__ = ()


_END = _End()

#: What would end a worker process under prefork, and is reported as its loss.
_LOST = (SystemExit, KeyboardInterrupt, GreenletExit)


def _lost(exc: BaseException) -> ExceptionInfo:
    try:
        raise WorkerLostError(repr(exc)) from exc
    except WorkerLostError:
        return ExceptionInfo()
