"""The pool: persistent slots that run one job after another.

A *job* waits in the backlog until a *slot* is free. A slot is a greenlet of the hub's own
kind that outlives its jobs, so nothing is spawned per task and thread-locals (HTTP
sessions, database connections) live as long as the slot. Each job runs in a copy of the
context of whoever applied it.

While a job runs, the :class:`~hybrid._rust.Slab` holds it under its *ticket*, which is the
``pid`` that Celery sees. Whoever takes the ticket settles the job: its slot when the target
has returned, a hard limit, or :meth:`TaskPool.terminate_job`. Exactly one of them gets it,
so a job has one outcome whatever comes together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextvars import copy_context
from math import isnan
from time import monotonic
from typing import Any, Callable, ClassVar

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery.concurrency.base import BasePool
from celery.exceptions import (
    SoftTimeLimitExceeded,
    WorkerShutdown,
    WorkerTerminate,
)
from celery.utils.log import get_logger
from celery.utils.text import truncate
from celery.worker import state as worker_state
from greenlet import GreenletExit
from kombu.utils.encoding import safe_repr

from hybrid._rust import Slab
from hybrid.hubs.base import Greenlet, Hub
from hybrid.worker.execution.job import ENDED, KILLED, RUNNING, Callback, Job
from hybrid.worker.execution.timer import Timer, count_entries
from hybrid.worker.execution.waiting import Waiters

logger = get_logger("celery.pool")

#: Jobs started before the hub gets a turn to poll for I/O.
TURN_BUDGET = 128
#: Jobs that are enough to go on with for whoever can make more at any time.
SUPPLY = 2 * TURN_BUDGET
#: Seconds that a killed job gets for its ``finally`` blocks before it is killed again.
KILL_GRACE = 5.0
#: After so many kills the pool gives up on a job that swallows them, and frees its place.
KILL_ATTEMPTS = 3
#: Jobs that can run at a time: the slab's tickets have 20 bits for their place.
MAX_LIMIT = 2**20
#: Seconds after which a slot without a job ends.
SLOT_IDLE = 60.0


class JobKilled(GreenletExit):  # type: ignore[misc]
    """Raised in a job that was terminated or has passed its hard time limit.

    Not an :exc:`Exception`, so that ``except Exception`` in a task lets it pass, and a kind
    of ``GreenletExit``, which both gevent and eventlet take for an ordinary end.
    """


class TaskPool(BasePool):  # type: ignore[misc]
    """A green pool on one hub; see the module for how it works.

    Subclasses name the hub. All methods belong to the hub's thread.

    Args:
        limit: How many jobs run at a time.
        timeout: Hard time limit in seconds for jobs that bring none of their own.
        soft_timeout: The same for the soft limit.
    """

    is_green = True
    signal_safe = False
    task_join_will_block = False

    #: Returns the hub, after making sure that the process is ready for it.
    get_hub: ClassVar[Callable[[], Hub]]
    #: What users type after ``-P``.
    spelling: ClassVar[str]
    #: Sent for each job that is applied.
    apply_signal: ClassVar[Any] = None

    def __init__(
        self,
        limit: int | None = None,
        *args: Any,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(limit, *args, **kwargs)
        _check_limit(limit or 0)
        self.hub = type(self).get_hub()
        self.timeout = timeout
        self.soft_timeout = soft_timeout
        self._backlog: deque[Job] = deque()
        #: Called with jobs that are about to start, and start whatever happens. It may block.
        self.before_start: Callable[[list[Job]], None] | None = None
        #: Jobs that it is being told of, and those that it has been told of, which are next.
        self._announced: Sequence[Job] = ()
        self._ready: deque[Job] = deque()
        self._announcer: Greenlet | None = None
        self._idle: list[tuple[Greenlet, float]] = []
        self._busy = 0
        #: Jobs that may still start before the next dispatch.
        self._budget = 0
        #: The first jobs of slots that have not begun. Given to `spawn` as an argument, a job
        #: would live as long as its slot.
        self._first_jobs: deque[Job] = deque()
        self._slots = 0
        self._slots_created = 0
        self._abandoned = 0
        self._dispatching = False
        self._held = False
        self._joiners = Waiters(self.hub)
        #: Those who wait for a job to be accepted or to end, and for the end of a dispatch.
        self._progress = Waiters(self.hub)
        self._turns = Waiters(self.hub)
        #: Pieces of the worker that run on our code, each with the reason why one does not, or
        #: with what tells it.
        self.accelerated: dict[str, Any] = {"pool": True, "timer": True}

    # -- life

    def on_start(self) -> None:
        """Get ready to run jobs; slots are started when jobs need them."""
        self._slab: Slab = Slab(self.limit)
        self._timer = Timer(hub=self.hub)
        self._timer.call_repeatedly(SLOT_IDLE / 2, self._retire_idle)

    def on_close(self) -> None:
        """Drop jobs that have not started; the broker gives their messages to others."""
        self.flush()

    def on_stop(self) -> None:
        """Wait until all jobs have ended."""
        if worker_state.should_terminate:
            self.flush()
        while self._has_jobs:
            self._joiners.wait()
        self._timer.stop()
        for slot, _ in self._idle:
            self.hub.call_soon(slot.switch, _END)
        self._idle.clear()
        if self._announcer is not None:
            self.hub.call_soon(self._announcer.switch, _END)

    def flush(self) -> None:
        """Drop the jobs that have not started."""
        if self._backlog:
            logger.debug(
                "%s: dropping %d jobs that have not started", self.spelling, len(self._backlog)
            )
            self._backlog.clear()
            self._progress.wake()
            self._turns.wake()
            self._maybe_drained()

    def hold(self) -> None:
        """Start no more jobs; those that run go on."""
        self._held = True

    @property
    def running(self) -> int:
        """Return how many jobs run."""
        return self._busy

    def wait_for_room(self, per_slot: int) -> None:
        """Wait while more than ``per_slot`` jobs are waiting for each that can run.

        Blocks the calling greenlet, so never call it in the hub.
        """
        while len(self._backlog) > per_slot * max(self.limit, 1):
            self._progress.wait()

    @property
    def is_supplied(self) -> bool:
        """Tell whether there are jobs enough for the next turns."""
        return len(self._backlog) >= SUPPLY

    def wait_for_demand(self) -> None:
        """Wait while there are jobs enough for the next turns.

        Blocks the calling greenlet, so never call it in the hub.
        """
        while self.is_supplied:
            self._turns.wait()

    def wait_for_progress(self, seconds: float) -> None:
        """Wait until a job has been accepted or has ended, at most ``seconds``.

        Blocks the calling greenlet, so never call it in the hub.
        """
        alarm = self._timer.call_after(seconds, self._progress.wake)
        try:
            self._progress.wait()
        finally:
            alarm.cancel()

    # -- jobs

    def apply_async(
        self,
        target: Callback,
        args: Any = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callback | None = None,
        accept_callback: Callback | None = None,
        timeout: float | None = None,
        timeout_callback: Callback | None = None,
        soft_timeout: float | None = None,
        error_callback: Callback | None = None,
        correlation_id: str | None = None,
        **_: Any,
    ) -> Job:
        """Take a job. Returns at once; the job starts when a slot is free, in order.

        Replaces :meth:`BasePool.apply_async`, which would pack and unpack all of this again.

        Raises:
            TypeError: A time limit is no number.
            ValueError: A time limit is NaN.
            OverflowError: A time limit is an integer that no clock reaches.
        """
        if timeout is not None:
            check_seconds("hard", timeout)
        if soft_timeout is not None:
            check_seconds("soft", soft_timeout)
        if self._does_debug:
            logger.debug(
                "TaskPool: Apply %s (args:%s kwargs:%s)",
                target,
                truncate(safe_repr(args), 1024),
                truncate(safe_repr(kwargs), 1024),
            )
        if self.apply_signal is not None and self.apply_signal.receivers:
            self.apply_signal.send(sender=self, target=target, args=args, kwargs=kwargs)
        job = Job(
            target,
            args or (),
            kwargs or {},
            copy_context(),
            callback,
            accept_callback,
            error_callback,
            timeout_callback,
            self.timeout if timeout is None else timeout,
            self.soft_timeout if soft_timeout is None else soft_timeout,
            correlation_id,
        )
        self._backlog.append(job)
        if not self._dispatching:
            self._schedule_dispatch()
        return job

    def terminate_job(self, pid: int, signal: int | None = None) -> None:  # noqa: ARG002
        """End the job behind the ticket ``pid``. Harmless when it has ended.

        The job gets :exc:`JobKilled` where it waits. Its callbacks are not called: whoever
        terminates it says what has become of it.
        """
        job = self._slab.take(pid)
        if job is not None:
            self._kill(job)

    def spawn_n(self, run: Callable[..., object], *args: Any) -> Greenlet:
        """Start ``run(*args)`` in a greenlet outside the pool: Celery's remote control."""
        return self.hub.spawn(run, *args)

    # -- size

    def grow(self, n: int = 1) -> None:
        """Run up to ``n`` more jobs at a time.

        Raises:
            ValueError: That is more than a pool can run.
        """
        _check_limit(self.limit + n)
        self.limit += n
        self._limit_slab()
        self._schedule_dispatch()

    def shrink(self, n: int = 1) -> None:
        """Run up to ``n`` fewer jobs at a time. Running jobs are left alone.

        Raises:
            ValueError: Fewer than none would be left.
        """
        if n > self.limit:
            raise ValueError(
                f"cannot shrink the pool by {n}: it runs {self.limit} jobs at a time; "
                f"choose at most {self.limit}"
            )
        self.limit -= n
        self._limit_slab()

    def _limit_slab(self) -> None:
        # After a shrink more jobs may run than the limit says, and some may be about to take
        # their tickets.
        coming = len(self._announced) + len(self._ready)
        self._slab.set_limit(max(self.limit, self._busy + coming))

    @property
    def num_processes(self) -> int:
        """Return how many jobs run at a time at most."""
        limit: int = self.limit
        return limit

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        info.update(
            {
                "implementation": f"{self.spelling}:TaskPool",
                "limit": self.limit,
                "running": self._busy,
                "free": max(self.limit - self._busy, 0),
                "waiting": len(self._backlog) + len(self._announced) + len(self._ready),
                "timers": count_entries(self.hub),
                "slots": self._slots,
                "slots-created": self._slots_created,
                "abandoned": self._abandoned,
                "accelerated": {
                    piece: state() if callable(state) else state
                    for piece, state in self.accelerated.items()
                },
                # The names under which stock eventlet reports the same.
                "free-threads": max(self.limit - self._busy, 0),
                "running-threads": self._busy,
            }
        )
        return info

    # -- in the hub

    @property
    def _has_jobs(self) -> bool:
        return bool(self._busy or self._backlog or self._announced or self._ready)

    def _schedule_dispatch(self) -> None:
        if not self._dispatching and (self._ready or (self._room > 0 and not self._announced)):
            self._dispatching = True
            self.hub.call_soon(self._dispatch)

    @property
    def _room(self) -> int:
        """How many of the waiting jobs may start."""
        if self._held:
            return 0
        free: int = self.limit - self._busy - len(self._ready)
        return min(len(self._backlog), free)

    def _dispatch(self) -> None:
        """Give waiting jobs to slots. Runs in the hub."""
        self._budget = TURN_BUDGET
        idle = self._idle
        try:
            if self.before_start is not None and not self._announced and self._room > 0:
                self._announce()
            while (job := self._take_next()) is not None:
                if idle:
                    idle.pop()[0].switch(job)
                else:
                    self._slots += 1
                    self._slots_created += 1
                    self._first_jobs.append(job)
                    self.hub.spawn(self._serve)
        finally:
            self._dispatching = False
            self._schedule_dispatch()
            self._turns.wake()

    def _announce(self) -> None:
        """Tell :attr:`before_start` of the next jobs. They are ready now, unless it blocks."""
        backlog = self._backlog
        self._announced = [backlog.popleft() for _ in range(min(self._room, TURN_BUDGET))]
        if self._announcer is None:
            self._announcer = self.hub.spawn(self._serve_announcements)
        else:
            self._announcer.switch(_RUN)

    def _serve_announcements(self) -> None:
        """Announce jobs until told to end. It runs in a greenlet of its own, as it may block."""
        order: Any = _RUN
        try:
            while order is not _END:
                if self._announced:
                    self._announce_now()
                order = self.hub.park()
        finally:
            self._announcer = None

    def _announce_now(self) -> None:
        try:
            if self.before_start is not None:
                self.before_start(list(self._announced))
        except Exception:
            logger.exception("%s: jobs start that could not be announced", self.spelling)
        finally:
            self._ready.extend(self._announced)
            self._announced = ()
            self._schedule_dispatch()

    def _take_next(self) -> Job | None:
        """Take the first of the waiting jobs, if one may start now."""
        if not self._budget:
            return None
        if self._ready:
            waiting = self._ready
        elif self.before_start is None and self._room > 0:
            waiting = self._backlog
        else:
            return None
        self._budget -= 1
        self._busy += 1
        return waiting.popleft()

    def _retire_idle(self) -> None:
        """End the slots that have had no job for a while."""
        before = monotonic() - SLOT_IDLE
        idle = self._idle
        # Slots are reused last in, first out: the longest idle come first.
        while idle and idle[0][1] < before:
            self.hub.call_soon(idle.pop(0)[0].switch, _END)

    def _maybe_drained(self) -> None:
        if not self._has_jobs:
            self._joiners.wake()

    # -- in a slot

    def _serve(self) -> None:
        """Run jobs until told to end: the life of a slot."""
        me = self.hub.current()
        job: Job | None = self._first_jobs.popleft()
        try:
            while job is not None:
                job.greenlet = me
                try:
                    job.context.run(self._run, job)
                except Exception:
                    logger.exception("%s: a callback of %r raised", self.spelling, job)
                finally:
                    self._finish(job)
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
                order = self.hub.park()
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
        is_accepted = False
        try:
            if job.accept_callback is not None:
                job.accept_callback(job.ticket, now)
                self._progress.wake()
            is_accepted = True
            if job.state is RUNNING:  # else it was revoked while Celery accepted it
                if soft or hard:
                    # The broker may take its time over an acknowledgement: not the target's.
                    job.limits = self._arm_limits(job, monotonic())
                result = job.target(*job.args, **job.kwargs)
        except BaseException as exc:
            self._on_raised(job, exc, is_accepted)
        else:
            if self._settle(job):
                if job.callback is not None:
                    job.callback(result)
            elif job.timed_out:
                self._report_timeout(job)

    def _settle(self, job: Job) -> bool:
        """Mark the target as ended; tell whether nobody else has decided its outcome."""
        job.state = ENDED
        for entry in job.limits:
            entry.cancel()
        return self._slab.take(job.ticket) is not None

    def _on_raised(self, job: Job, exc: BaseException, is_accepted: bool) -> None:
        """Report what left the target. Celery's tracer handles the errors of the task.

        An error of whoever was told that the job starts is none of the target's: in Celery, such a
        task has neither run nor failed, and its message stays with the broker unless it has been
        acknowledged.
        """
        settled = self._settle(job)
        if isinstance(exc, (WorkerShutdown, WorkerTerminate)):
            raise exc
        if not settled:
            if job.timed_out:
                self._report_timeout(job)
            if not (job.killed and isinstance(exc, JobKilled)):
                logger.debug("%s: %r ended with %r after it was killed", self.spelling, job, exc)
            return
        if not is_accepted and isinstance(exc, Exception):
            logger.error("%s: %r was not accepted: %r", self.spelling, job, exc, exc_info=exc)
            return
        einfo = _lost(exc) if isinstance(exc, _LOST) else ExceptionInfo()
        if job.error_callback is not None:
            job.error_callback(einfo)
        else:
            logger.error("%s: %r raised: %r", self.spelling, job, exc, exc_info=exc)

    def _finish(self, job: Job) -> None:
        if not job.abandoned:
            self._busy -= 1
        job.greenlet = None
        job.state = ENDED
        if self._backlog:
            self._schedule_dispatch()
        else:
            self._maybe_drained()
        self._progress.wake()

    # -- limits

    def _arm_limits(self, job: Job, now: float) -> tuple[Any, ...]:
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
        self.hub.call_soon(self._throw, job, RUNNING, SoftTimeLimitExceeded)

    def _on_hard_limit(self, job: Job) -> None:
        if self._slab.take(job.ticket) is not None:
            job.timed_out = True
            self._kill(job)

    def _report_timeout(self, job: Job) -> None:
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
            self._report_timeout(job)
        if attempt > KILL_ATTEMPTS:
            self._abandon(job)
            return
        self.hub.call_soon(self._throw, job, KILLED, JobKilled)
        self._timer.call_after(KILL_GRACE, self._kill, (job, attempt + 1))

    def _throw(self, job: Job, state: int, exc_type: type[BaseException]) -> None:
        """Raise in the target of ``job``, if it is still in ``state``. Runs in the hub."""
        if job.state is state and job.greenlet is not None:
            job.greenlet.throw(exc_type)

    def _abandon(self, job: Job) -> None:
        logger.error(
            "%s: %r swallowed %d attempts to end it and may run on; its place is free again. "
            "Let %s pass in the task's except clauses",
            self.spelling,
            job,
            KILL_ATTEMPTS,
            JobKilled.__name__,
        )
        job.abandoned = True
        self._abandoned += 1
        self._busy -= 1
        self._schedule_dispatch()
        self._maybe_drained()


def _check_limit(limit: int) -> None:
    if limit > MAX_LIMIT:
        raise ValueError(f"a pool runs at most {MAX_LIMIT} jobs at a time, not {limit}")


def check_seconds(which: str, seconds: Any) -> None:
    """Check that a time limit can be kept.

    Raises:
        TypeError: It is no number.
        ValueError: It is NaN.
        OverflowError: It is an integer that no clock reaches.
    """
    if not isinstance(seconds, (int, float)):
        raise TypeError(f"the {which} time limit must be a number of seconds, not {seconds!r}")
    if isnan(seconds):
        raise ValueError(f"the {which} time limit must be a number of seconds, not {seconds!r}")


class _Order:
    __slots__ = ()


_RUN, _END = _Order(), _Order()

#: What would end a worker process under prefork, and is reported as its loss.
_LOST = (SystemExit, KeyboardInterrupt, GreenletExit)


def _lost(exc: BaseException) -> ExceptionInfo:
    try:
        raise WorkerLostError(repr(exc)) from exc
    except WorkerLostError:
        return ExceptionInfo()
