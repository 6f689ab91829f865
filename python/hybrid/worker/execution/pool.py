"""The pool: Celery's interface, and which jobs may start when.

A *job* waits in the backlog until a *slot* (:mod:`~hybrid.worker.execution.slots`) is free. It runs
there in a copy of the context of whoever applied it.

While a job runs, the :class:`~hybrid._rust.Slab` holds it under its *ticket*, which is the
``pid`` that Celery sees. Whoever takes the ticket settles the job: its slot when the target
has returned, a hard limit, or :meth:`TaskPool.terminate_job`. Exactly one of them gets it,
so a job has one outcome whatever comes together.

Who may switch: whoever waits for room, demand, progress or the end of all jobs, in the pool's
parking lots; and :meth:`TaskPool._dispatch`, a callback of the hub, into the announcer and into
slots, when nothing of the pool's is half done. A job is always in somebody's hands: in the
backlog, being announced, ready, or with a slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from math import isnan
from socket import timeout as too_late
from typing import Any, Callable, ClassVar

from celery.concurrency.base import BasePool
from celery.utils.log import get_logger
from celery.utils.text import truncate
from celery.worker import state as worker_state
from kombu.utils.encoding import safe_repr

from hybrid import detours, hubs, runtime
from hybrid._rust import Slab
from hybrid.hubs.base import Greenlet, Hub
from hybrid.hubs.parking import ParkingLot
from hybrid.worker.execution import forks, slots, tracing
from hybrid.worker.execution.announcer import Announcer
from hybrid.worker.execution.coroutines import Coroutines
from hybrid.worker.execution.job import ABANDONED, Callback, Job, JobKilled
from hybrid.worker.execution.limits import KILL_ATTEMPTS, KILL_GRACE, Limits
from hybrid.worker.execution.slots import SLOT_IDLE, Slots
from hybrid.worker.execution.timer import Timer, count_entries

__all__ = [
    "KILL_ATTEMPTS",
    "KILL_GRACE",
    "MAX_LIMIT",
    "SLOT_IDLE",
    "SUPPLY",
    "TURN_BUDGET",
    "JobKilled",
    "TaskPool",
]

logger = get_logger("celery.pool")

#: Jobs started before the hub gets a turn to poll for I/O.
TURN_BUDGET = 128
#: Jobs that are enough to go on with for whoever can make more at any time.
SUPPLY = 2 * TURN_BUDGET
#: Jobs that can run at a time: the slab's tickets have 20 bits for their place.
MAX_LIMIT = 2**20


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
        #: Jobs that it has been told of, which are next.
        self._ready: deque[Job] = deque()
        #: Jobs that a slot is at, until their callbacks have returned.
        self._with_slot: set[Job] = set()
        self._busy = 0
        #: Jobs that may still start before the next dispatch.
        self._budget = 0
        self._dispatching = False
        self._held = False
        self._joiners = ParkingLot(self.hub)
        #: Those who wait for a job to be accepted or to end, and for the end of a dispatch.
        self._progress = ParkingLot(self.hub)
        self._turns = ParkingLot(self.hub)
        #: Pieces of the worker that run on our code, each with the reason why one does not, or
        #: with what tells it.
        self.accelerated: dict[str, Any] = {"pool": True, "timer": True}
        self._furnish()

    def _furnish(self) -> None:
        self._slab: Slab = Slab(self.limit or 0)
        self._timer = Timer(hub=self.hub)
        self._limits = Limits(self._timer, self._slab, self.spelling, self._on_abandoned)
        self._slots = Slots(
            self.hub,
            self._slab,
            self._limits,
            self.spelling,
            self._take_next,
            self._progress,
            self._on_finished,
        )
        self._announcer = Announcer(self.hub, self.spelling, self._tell_of, self._on_told)

    # -- life

    def on_start(self) -> None:
        """Get ready to run jobs; slots are started when jobs need them."""
        runtime.current().start()
        if self._timer.stopped:
            self._furnish()  # it is started again
        self._limit_slab()
        hubs.on_fork(self._after_fork)
        self._timer.call_repeatedly(slots.SLOT_IDLE / 2, self._tidy)

    def on_close(self) -> None:
        """Drop jobs that have not started; the broker gives their messages to others."""
        self.flush()

    def on_stop(self) -> None:
        """Wait until all jobs have ended."""
        if worker_state.should_terminate:
            self.flush()
        while self._has_jobs:
            self._joiners.park()
        self._timer.stop()
        self._slots.end()
        self._announcer.end()
        runtime.current().stop()

    def flush(self) -> None:
        """Drop the jobs that have not started."""
        if self._backlog:
            logger.debug(
                "%s: dropping %d jobs that have not started", self.spelling, len(self._backlog)
            )
            self._backlog.clear()
            self._progress.unpark_all()
            self._turns.unpark_all()
            self._maybe_drained()

    def hold(self) -> None:
        """Start no more jobs; those that run go on."""
        self._held = True

    @property
    def running(self) -> int:
        """Return how many jobs run."""
        return self._busy

    @property
    def begun(self) -> list[Job]:
        """The jobs that go on whatever happens: they are or have been announced, or have a slot."""
        return [*self._announcer.jobs, *self._ready, *self._with_slot]

    def room(self, per_slot: int) -> int:
        """Return how many more jobs may come before ``per_slot`` wait for each that can run."""
        most: int = per_slot * max(self.limit, 1)
        return most + 1 - len(self._backlog)

    @property
    def is_supplied(self) -> bool:
        """Tell whether there are jobs enough for the next turns."""
        return len(self._backlog) >= SUPPLY

    def wait_for_demand(self) -> None:
        """Wait while there are jobs enough for the next turns.

        Blocks the calling greenlet, so never call it in the hub.
        """
        while self.is_supplied:
            self._turns.park()

    def wait_for_progress(self, seconds: float) -> None:
        """Wait until a job has been accepted or has ended, at most ``seconds``.

        Blocks the calling greenlet, so never call it in the hub.
        """
        with suppress(too_late):
            self._progress.park(seconds)

    def keep_coroutines_apart(self) -> None:
        """Let asyncio's loops in one task be in no other task's way."""
        Coroutines(self.hub, self._slab, self.spelling).keep_apart()

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
            Context(),
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
        terminates it says what has become of it. In a greenlet that is no slot, this returns a
        turn of the hub later, when the job has got it, so that nothing it does comes after what is
        said.
        """
        if self._limits.terminate(pid) and self.hub.can_park() and not tracing.in_slot():
            self.hub.sleep(0)

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
        coming = len(self._announcer.jobs) + len(self._ready)
        self._slab.set_limit(max(self.limit, self._busy + coming))

    @property
    def num_processes(self) -> int:
        """Return how many jobs run at a time at most."""
        limit: int = self.limit
        return limit

    def statistics(self) -> dict[str, int]:
        """Return how many jobs may run, run, wait, and are about to start, and who waits."""
        return {
            "limit": self.limit,
            "running": self._busy,
            "free": max(self.limit - self._busy, 0),
            "backlog": len(self._backlog),
            "ready": len(self._ready),
            "waiting-for-progress": len(self._progress),
            "waiting-for-demand": len(self._turns),
            "waiting-for-end": len(self._joiners),
        }

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        pool, slots = self.statistics(), self._slots.statistics()
        announced = self._announcer.statistics()["announced"]
        info.update(
            {
                "implementation": f"{self.spelling}:TaskPool",
                "limit": pool["limit"],
                "running": pool["running"],
                "free": pool["free"],
                "waiting": pool["backlog"] + announced + pool["ready"],
                "timers": count_entries(self.hub),
                "slots": slots["slots"],
                "slots-created": slots["slots-created"],
                "abandoned": self._limits.statistics()["abandoned"],
                "accelerated": {
                    piece: state() if callable(state) else state
                    for piece, state in self.accelerated.items()
                },
                # How often, by piece and cause, the other way was taken since the start.
                "detours": detours.statistics(),
                "patches": runtime.current().patches.statistics(),
                # The names under which stock eventlet reports the same.
                "free-threads": pool["free"],
                "running-threads": pool["running"],
            }
        )
        return info

    def _after_fork(self) -> None:
        # The hub may be in the middle of a dispatch.
        self._held = True
        self._backlog.clear()
        self._ready.clear()
        # Looked up when the target has ended; a look at the process for each job would cost.
        self._limits.settle = forks.end_with_job  # type: ignore[method-assign, assignment]
        forks.forget_outcome()

    # -- in the hub

    @property
    def _has_jobs(self) -> bool:
        return bool(self._busy or self._backlog or self._announcer.jobs or self._ready)

    def _schedule_dispatch(self) -> None:
        if not self._dispatching and (self._ready or (self._room > 0 and not self._announcer.jobs)):
            self.hub.call_soon(self._dispatch)
            self._dispatching = True

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
        try:
            if self.before_start is not None and self._backlog and not self._announcer.jobs:
                self._announce_next()
            while (job := self._take_next()) is not None:
                try:
                    self._slots.run(job)
                except BaseException:  # no slot could be started
                    self._busy -= 1
                    self._with_slot.discard(job)
                    self._ready.appendleft(job)
                    raise
        finally:
            self._dispatching = False
            if self._ready or self._backlog:
                self._schedule_dispatch()
            if self._turns.parked:
                self._turns.unpark_all()

    def _announce_next(self) -> None:
        """Tell :attr:`before_start` of the next jobs. They are ready now, unless it blocks."""
        count = min(self._room, TURN_BUDGET)
        if count > 0:
            self._announcer.announce([self._backlog.popleft() for _ in range(count)])

    def _tell_of(self, jobs: list[Job]) -> None:
        if self.before_start is not None:
            self.before_start(jobs)

    def _on_told(self, jobs: Sequence[Job]) -> None:
        self._ready.extend(jobs)
        if not self._dispatching:
            self._schedule_dispatch()

    def _take_next(self) -> Job | None:
        """Take the first of the waiting jobs, if one may start now."""
        if not (self._budget and (self._ready or self._backlog)):
            return None
        if self._ready:
            waiting = self._ready
        elif self.before_start is None and self._room > 0:
            waiting = self._backlog
        else:
            return None
        self._budget -= 1
        self._busy += 1
        job = waiting.popleft()
        self._with_slot.add(job)
        return job

    def _on_finished(self, job: Job) -> None:
        self._with_slot.discard(job)
        if job.state is not ABANDONED:
            self._busy -= 1
        if self._backlog:
            if not self._dispatching:
                self._schedule_dispatch()
        elif not self._busy:
            self._maybe_drained()
        if self._progress.parked:
            self._progress.unpark_all()

    def _on_abandoned(self) -> None:
        self._busy -= 1
        self._schedule_dispatch()
        self._maybe_drained()

    def _maybe_drained(self) -> None:
        if self._joiners.parked and not self._has_jobs:
            self._joiners.unpark_all()

    def _tidy(self) -> None:
        self._slots.tidy()
        self._announcer.tidy()


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
