"""The worker's timer: kombu's whole timer interface over one heap and one hub alarm.

Stock green pools spawn a greenlet per entry. Here an entry is one small object in
:class:`hybrid._rust.TimerHeap`, and the hub holds a single alarm, for the earliest of
them. Entries run one after another in a *runner*, a greenlet of the timer's own, so that
they may block (a heartbeat writes to a socket). When one does block, the entries behind it
go on in another runner: nothing is late because of its neighbour.

Who may switch: a runner, in the entries that it runs and while it is idle, and the hub, into a
runner that is idle. That is no parking lot: who is told there goes on a turn later. All that is
left to do is in the heap or in the line of what is due, and while there is any, an alarm, a guard
or a runner that has been resumed takes care of it, also when a runner is ended.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from time import monotonic
from typing import Any, Callable, ClassVar

from kombu.asynchronous.timer import DEFAULT_MAX_INTERVAL, scheduled, to_timestamp
from kombu.log import get_logger

from hybrid import runtime
from hybrid._rust import TimerEntry, TimerHeap
from hybrid.hubs.base import Alarm, Greenlet, Hub

logger = get_logger(__name__)

#: Entries that one runner takes before the hub gets a turn to poll for I/O.
TURN_BUDGET = 256
#: Parked runners that are kept; one serves unless entries block.
IDLE_RUNNERS = 4
_NEVER = float("inf")

_OnError = Callable[[Exception], object]


class Entry(TimerEntry):
    """One scheduled call: ``fun(*args, **kwargs)``.

    Has the attributes of :class:`kombu.asynchronous.timer.Entry`, but ``fun``, ``args`` and
    ``kwargs`` cannot be replaced. Cancelling frees its place in the heap at once.
    """

    __slots__ = ()

    def __call__(self) -> Any:
        """Make the call."""
        return self.fun(*self.args, **self.kwargs)

    def __repr__(self) -> str:
        name = getattr(self.fun, "__name__", repr(self.fun))
        return f"<TimerEntry: {name}(*{self.args!r}, **{self.kwargs!r})>"

    # kombu orders entries of the same time by their identity.
    def __lt__(self, other: object) -> bool:
        return id(self) < id(other)


class _Repeat:
    """What a repeated entry calls: the function, and then its own next run."""

    __slots__ = ("entry", "fun", "priority", "seconds", "timer")

    def __init__(
        self, timer: Timer, seconds: float, fun: Callable[..., object], priority: int
    ) -> None:
        self.timer = timer
        self.seconds = seconds
        self.fun = fun
        self.priority = priority
        self.entry: Entry | None = None

    @property
    def __name__(self) -> str:
        return getattr(self.fun, "__name__", repr(self.fun))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        started = monotonic()
        try:
            return self.fun(*args, **kwargs)
        finally:
            entry = self.entry
            if entry is not None and not entry.canceled and not self.timer.stopped:
                # Counted from the start of this run, so that the rate does not drift, and
                # entered only now, so that it never runs twice at a time.
                due = max(started + self.seconds, monotonic())
                self.timer.enter_at(entry, due, self.priority)


class _Foreign:
    """Runs an entry that is not one of ours, such as kombu's own, unless it was cancelled."""

    __slots__ = ("entry",)

    def __init__(self, entry: Any) -> None:
        self.entry = entry

    @property
    def __name__(self) -> str:
        return getattr(self.entry.fun, "__name__", repr(self.entry.fun))

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        if not self.entry.canceled:
            return self.entry()
        return None


def _entered(held: TimerEntry) -> Any:
    """Return what the caller of ``enter_at`` has entered, for which the heap has ``held``."""
    return held.fun.entry if type(held.fun) is _Foreign else held


class Timer:
    """kombu's timer interface on one hub.

    Times are seconds of :func:`time.monotonic`, or aware datetimes where kombu takes them.
    Safe to call from any thread; entries run in the hub's thread.

    Subclasses name the hub.

    Args:
        max_interval: Kept for kombu's iterator protocol; the alarm needs no polling.
        on_error: Called with the exception of an entry instead of logging it.
        hub: Where entries run, if not on the hub of the class.
    """

    Entry = Entry
    on_error: _OnError | None = None
    #: Returns the hub, after making sure that the process is ready for it.
    get_hub: ClassVar[Callable[[], Hub]]

    def __init__(
        self,
        max_interval: float | None = None,
        on_error: _OnError | None = None,
        hub: Hub | None = None,
        **_: Any,
    ) -> None:
        self.max_interval = float(max_interval or DEFAULT_MAX_INTERVAL)
        self.on_error = on_error or self.on_error
        self._hub = hub if hub is not None else type(self).get_hub()
        self._heap = TimerHeap()
        self._alarm: Alarm | None = None
        self._alarm_eta = _NEVER
        # Popped from the heap and due, but still to be run.
        self._due: deque[TimerEntry] = deque()
        self._idle: list[Greenlet] = []
        self._guarded = False
        #: Set by :meth:`stop`: entries that repeat do not come back.
        self.stopped = False
        runtime.current().timers.add(self)

    # -- entering

    def call_at(
        self,
        eta: float | datetime,
        fun: Callable[..., object],
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
        priority: int = 0,
    ) -> Any:
        """Call ``fun(*args, **kwargs)`` at ``eta`` and return the entry."""
        return self.enter_at(Entry(fun, args, kwargs), eta, priority)

    def call_after(
        self,
        secs: float,
        fun: Callable[..., object],
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
        priority: int = 0,
    ) -> Any:
        """Call ``fun(*args, **kwargs)`` in ``secs`` seconds and return the entry."""
        entry = Entry(fun, args, kwargs)
        eta = monotonic() + secs
        if self._heap.push(entry, eta, priority):
            self._arm(eta)
        return entry

    def call_repeatedly(
        self,
        secs: float,
        fun: Callable[..., object],
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
        priority: int = 0,
    ) -> Any:
        """Call ``fun(*args, **kwargs)`` every ``secs`` seconds, first in ``secs`` seconds.

        Runs of one entry never overlap: a run that takes longer delays the next.
        """
        repeat = _Repeat(self, secs, fun, priority)
        entry = repeat.entry = Entry(repeat, args, kwargs)
        return self.enter_after(secs, entry, priority)

    def enter_at(
        self,
        entry: Any,
        eta: float | datetime | None = None,
        priority: int = 0,
        time: Callable[[], float] = monotonic,
    ) -> Any:
        """Schedule ``entry`` at ``eta``, or now when it is ``None``, and return it."""
        if eta is None:
            eta = time()
        if isinstance(eta, datetime):
            try:
                eta = float(to_timestamp(eta))
            except Exception as exc:
                if not self.handle_error(exc):
                    raise
                return None
        held = entry
        if not isinstance(entry, TimerEntry):
            held = Entry(_Foreign(entry), entry.args, entry.kwargs)
        if self._heap.push(held, eta, priority):
            self._arm(eta)
        return entry

    def enter_after(
        self, secs: float, entry: Any, priority: int = 0, time: Callable[[], float] = monotonic
    ) -> Any:
        """Schedule ``entry`` in ``secs`` seconds and return it."""
        return self.enter_at(entry, time() + float(secs), priority)

    def enter(self, entry: Any, eta: float | datetime, priority: int | None = None) -> Any:
        """Schedule ``entry`` at ``eta``: the spelling of :mod:`celery.utils.timer2`."""
        return self.enter_at(entry, eta, priority or 0)

    def exit_after(self, secs: float, priority: int = 10) -> None:
        """End the process in ``secs`` seconds."""
        self.call_after(secs, sys.exit, priority=priority)

    # -- leaving

    def cancel(self, tref: Any) -> None:
        """Drop an entry. Harmless when it has run or was cancelled before."""
        tref.cancel()

    def clear(self) -> None:
        """Drop all entries that have not run."""
        self._due.clear()
        self._heap.clear()
        if self._hub.in_thread():
            self._disarm()  # elsewhere the alarm stays, and will find nothing to do

    def stop(self) -> None:
        """Drop all entries and end the greenlets that ran them."""
        self.stopped = True
        self.clear()
        self._hub.call_soon_threadsafe(self._end_runners)

    # -- looking

    @property
    def queue(self) -> list[Any]:
        """Return the entries as ``scheduled(eta, priority, entry)`` tuples, earliest first."""
        return sorted(
            (scheduled(held.eta, held.priority, _entered(held)) for held in self._heap.entries()),
            key=lambda held: held.eta,
        )

    @property
    def schedule(self) -> Timer:
        """Return this timer: it is its own schedule."""
        return self

    def empty(self) -> bool:
        """Tell whether nothing is scheduled."""
        return not len(self)

    def ensure_started(self) -> None:
        """Do nothing: there is no thread to start."""

    def statistics(self) -> dict[str, int]:
        """Return how many entries are scheduled, how many are due, and how many runners idle."""
        return {"entries": len(self), "due": len(self._due), "idle-runners": len(self._idle)}

    def memory_bytes(self) -> int:
        """Return the bytes held by the heap, without the entries themselves."""
        return self._heap.memory_bytes()

    def __len__(self) -> int:
        return len(self._heap)

    def __bool__(self) -> bool:
        return True

    __nonzero__ = __bool__

    def __enter__(self) -> Timer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # -- running

    def apply_entry(self, entry: Any) -> None:
        """Run ``entry`` and handle what it raises."""
        try:
            entry()
        except Exception as exc:
            if not self.handle_error(exc):
                logger.error("Error in timer: %r", exc, exc_info=True)

    def handle_error(self, exc: Exception) -> bool:
        """Give ``exc`` to ``on_error``; tell whether there is one."""
        if self.on_error:
            self.on_error(exc)
            return True
        return False

    def __iter__(self) -> Iterator[tuple[float | None, Any]]:
        """Iterate as kombu's timer does, for whoever drives it by hand.

        Yields ``(seconds, None)`` when the caller should come back after ``seconds``,
        ``(None, entry)`` for one that is due, and ``(None, None)`` when nothing is
        scheduled.
        """
        while True:
            now = monotonic()
            due = self._heap.expire(now, 1)
            if due:
                yield None, due[0]
                continue
            eta = self._heap.next_eta()
            yield (None if eta is None else min(eta - now, self.max_interval)), None

    def _arm(self, eta: float) -> None:
        if eta >= self._alarm_eta:
            return
        if not self._hub.in_thread():
            self._hub.call_soon_threadsafe(self._arm, eta)
            return
        self._disarm()
        self._alarm_eta = eta
        self._alarm = self._hub.call_later(eta - monotonic(), self._on_alarm)

    def _disarm(self) -> None:
        alarm, self._alarm, self._alarm_eta = self._alarm, None, _NEVER
        if alarm is not None:
            alarm.cancel()

    def _on_alarm(self) -> None:
        # In the hub.
        self._alarm, self._alarm_eta = None, _NEVER
        self._go_on()

    def _on_guard(self) -> None:
        # In the hub: a runner has given control back, because it blocks or has finished.
        self._guarded = False
        self._go_on()

    def _go_on(self) -> None:
        eta = self._heap.next_eta()
        if not self._due and (eta is None or eta > monotonic()):
            if eta is not None:
                self._arm(eta)
        elif self._idle:
            self._hub.resume(self._idle.pop(), _RUN)
        else:
            self._hub.spawn(self._serve)
            self._guard()  # somebody may kill it before its first turn

    def _guard(self) -> None:
        if not self._guarded:
            self._hub.call_soon(self._on_guard)
            self._guarded = True

    def _serve(self) -> None:
        me = self._hub.current()
        order: Any = _RUN
        while order is _RUN:
            self._run_due()
            if self.stopped or len(self._idle) >= IDLE_RUNNERS:
                return
            self._idle.append(me)
            try:
                order = self._hub.park()
                while type(order) is not _Order:
                    order = self._hub.park()  # a switch of somebody else's
            except BaseException:  # killed from outside
                if me in self._idle:
                    self._idle.remove(me)
                raise

    def _end_runners(self) -> None:
        while self._idle:
            self._hub.resume(self._idle.pop(), _END)

    def _run_due(self) -> None:
        """Run what is due, up to the budget of one turn.

        The guard is a callback in the hub's next turn. It comes as soon as an entry blocks,
        and hands what is left to another runner; it also goes on after a used-up budget.
        """
        due = self._due
        for _ in range(TURN_BUDGET):
            if not self._guarded:
                self._guard()
            if not due:
                due.extend(self._heap.expire(monotonic(), TURN_BUDGET))
                if not due:
                    break
            entry = due.popleft()
            if not entry.canceled:
                self.apply_entry(entry)


class _Order:
    __slots__ = ()


_RUN, _END = _Order(), _Order()


def count_entries(hub: Hub) -> int:
    """Return how many entries the timers of ``hub`` hold altogether."""
    return sum(len(timer) for timer in runtime.current().timers if timer._hub is hub)
