"""Slots: greenlets that outlive the jobs that they run.

Nothing is spawned per task, and thread-locals (HTTP sessions, database connections) live as long
as the slot.

Who may switch: a slot in what belongs to its job (accepting it, its target, its callbacks), and
while it is idle. What starts and ends slots runs in the hub or in whoever calls it, and only
:meth:`Slots.run` switches, into a slot that is idle. Between two jobs a slot does not switch, and
the books of the pool are in order whenever somebody else runs.
"""

from __future__ import annotations

from time import monotonic
from typing import Callable

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.utils.log import get_logger

from hybrid._rust import Slab
from hybrid.hubs.base import Greenlet, GreenletExit, Hub
from hybrid.hubs.parking import ParkingLot
from hybrid.worker.execution import tracing
from hybrid.worker.execution.job import (
    ACCEPTING,
    AFTER,
    BEFORE,
    ENDED,
    RUNNING,
    Job,
    JobKilled,
    State,
)
from hybrid.worker.execution.limits import Limits

logger = get_logger("celery.pool")

#: Seconds after which a slot without a job ends.
SLOT_IDLE = 60.0


class Slot:
    """One greenlet that runs jobs, one after another."""

    __slots__ = ("_hub", "first", "greenlet", "idle_since", "job")

    greenlet: Greenlet

    def __init__(self, hub: Hub, first: Job) -> None:
        self._hub = hub
        #: The job that it begins with.
        self.first: Job | None = first
        #: The job whose target it runs.
        self.job: Job | None = None
        self.idle_since = 0.0

    def interrupt(self, job: Job, exc: type[BaseException], anywhere: bool) -> None:
        """Raise ``exc`` in the target of ``job``, in the hub's next turn."""
        self._hub.call_soon(self._interrupt_now, job, job.state, exc, anywhere)

    def _interrupt_now(
        self, job: Job, state: State, exc: type[BaseException], anywhere: bool
    ) -> None:
        if job.runner is not self or job.state is not state:
            return
        if not anywhere and job.part is BEFORE and tracing.comes_to_function(job):
            job.owed = exc
        elif anywhere or job.part is not AFTER:
            self._hub.interrupt(self.greenlet, exc)


class Slots:
    """The slots of a pool.

    Args:
        hub: The hub that they run on.
        slab: The jobs that run, by ticket.
        limits: What else ends them.
        spelling: What users type after ``-P``.
        take_next: Returns the next job that may start, if there is one.
        progress: Those who wait for a job to be accepted.
        on_finished: Called when a slot is through with a job.
    """

    def __init__(
        self,
        hub: Hub,
        slab: Slab,
        limits: Limits,
        spelling: str,
        take_next: Callable[[], Job | None],
        progress: ParkingLot,
        on_finished: Callable[[Job], object],
    ) -> None:
        self._hub = hub
        self._slab = slab
        self._limits = limits
        self._spelling = spelling
        self._take_next = take_next
        self._progress = progress
        self._on_finished = on_finished
        #: The longest idle come first.
        self._idle: list[Slot] = []
        #: Those that have not begun.
        self._starting: dict[Slot, None] = {}
        self._count = 0
        self._created = 0

    def run(self, job: Job) -> None:
        """Have a slot run ``job``. For the hub."""
        if self._idle:
            self._hub.resume(self._idle.pop().greenlet, job)
        else:
            slot = Slot(self._hub, job)
            slot.greenlet = self._hub.spawn(self._serve, slot)
            self._starting[slot] = None
            self._count += 1
            self._created += 1

    def end(self) -> None:
        """End the slots that have no job."""
        idle = self._idle[:]
        self._idle.clear()
        for slot in idle:
            self._hub.call_soon(self._hub.resume, slot.greenlet, _END)

    def tidy(self) -> None:
        """End the slots that have had no job for a while, and replace those that never began."""
        before = monotonic() - SLOT_IDLE
        idle = self._idle
        while idle and idle[0].idle_since < before:
            self._hub.call_soon(self._hub.resume, idle.pop(0).greenlet, _END)
        for slot in [slot for slot in self._starting if slot.greenlet.dead]:
            # Somebody has killed it before its first turn.
            del self._starting[slot]
            self._count -= 1
            if slot.first is not None:
                self.run(slot.first)

    def statistics(self) -> dict[str, int]:
        """Return how many slots there are and how many of them idle, and how many there were."""
        return {"slots": self._count, "slots-idle": len(self._idle), "slots-created": self._created}

    # -- in a slot

    def _serve(self, slot: Slot) -> None:
        """Run jobs until told to end: the life of a slot."""
        del self._starting[slot]
        tracing.enter(slot)
        job, slot.first = slot.first, None
        try:
            while job is not None:
                try:
                    job.context.run(self._run, slot, job)
                except Exception:
                    logger.exception("%s: a callback of %r raised", self._spelling, job)
                finally:
                    slot.job = None
                    self._on_finished(job)
                if job.state is not ENDED:
                    # It was killed: its thread-locals may hold half-used connections.
                    return
                # Going on without a switch saves a third of a job's cost. But a slot that has
                # not begun has an earlier job.
                job = None if self._starting else self._take_next()
                if job is None:
                    job = self._wait_for_job(slot)
        finally:
            self._count -= 1

    def _wait_for_job(self, slot: Slot) -> Job | None:
        """Park until there is a job for this slot, or ``None`` for its end."""
        slot.idle_since = monotonic()
        self._idle.append(slot)
        try:
            while True:
                order = self._hub.park()
                if type(order) is Job:
                    return order
                if order is _END:
                    return None
                # else it is a switch of somebody else's
        except BaseException:  # killed from outside
            if slot in self._idle:
                self._idle.remove(slot)
            raise

    def _run(self, slot: Slot, job: Job) -> None:
        now = monotonic()
        soft, hard = job.soft_timeout, job.timeout
        job.ticket = self._slab.insert(
            job, now, now + soft if soft else None, now + hard if hard else None
        )
        job.state = ACCEPTING
        try:
            if job.accept_callback is not None:
                job.accept_callback(job.ticket, now)
                if self._progress.parked:
                    self._progress.unpark_all()
            if job.state is ACCEPTING:  # else it was terminated meanwhile
                job.state = RUNNING
                job.runner = slot
                slot.job = job
                if soft or hard:
                    # The broker may take its time over an acknowledgement: not the target's.
                    self._limits.watch(job)
                result = job.target(*job.args, **job.kwargs)
        except BaseException as exc:
            self._on_raised(job, exc)
        else:
            if not self._limits.settle(job):
                self._limits.report(job)
            elif job.callback is not None:
                job.callback(result)

    def _on_raised(self, job: Job, exc: BaseException) -> None:
        """Report what left the target. Celery's tracer handles the errors of the task.

        An error of whoever was told that the job starts is none of the target's: in Celery, such a
        task has neither run nor failed, and its message stays with the broker unless it has been
        acknowledged.
        """
        is_accepted = job.runner is not None
        settled = self._limits.settle(job)
        if isinstance(exc, (WorkerShutdown, WorkerTerminate)):
            raise exc
        if not settled:
            self._limits.report(job)
            if not isinstance(exc, JobKilled):
                logger.debug("%s: %r ended with %r after it was killed", self._spelling, job, exc)
            return
        if not is_accepted and isinstance(exc, Exception):
            logger.error("%s: %r was not accepted: %r", self._spelling, job, exc, exc_info=exc)
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
