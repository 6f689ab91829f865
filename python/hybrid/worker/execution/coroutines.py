"""asyncio in tasks: each has its own loops, and a log line names those that hold something up.

Who may switch: whoever logs, in greenlets of the hub's own for what is found in the hub, and in the
greenlet of the task for a loop of another library.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType
from typing import Any

from celery.utils.log import get_logger

from hybrid._rust import Slab
from hybrid.hubs.base import Greenlet, Hub, getcurrent
from hybrid.hubs.running_loops import Place, RunningLoops
from hybrid.worker.execution.job import Job
from hybrid.worker.execution.slots import Slot

logger = get_logger("celery.pool")


class Coroutines:
    """What is said of the coroutines of a pool's tasks.

    Args:
        hub: The hub that they run on.
        slab: The jobs that run, by ticket.
        spelling: What users type after ``-P``.
    """

    def __init__(self, hub: Hub, slab: Slab, spelling: str) -> None:
        self._hub = hub
        self._slab = slab
        self._spelling = spelling
        #: What has been said already.
        self._said: set[Any] = set()

    def keep_apart(self) -> None:
        """Let the loops of a task be in no other task's way."""
        RunningLoops(self._hub, self._on_blocked, self._on_foreign).keep_apart()

    def _on_blocked(self, greenlet: Greenlet, place: Place) -> None:
        what = place.function, place.file
        if what not in self._said:
            self._said.add(what)
            self._hub.spawn(self._say_blocked, self._name(greenlet), place)

    def _say_blocked(self, name: str, place: Place) -> None:
        logger.warning(
            "%s: %s waits in blocking code inside a coroutine, in %s at %s:%d, and all that its "
            "event loop runs waits with it; other tasks go on. Call what blocks with "
            "asyncio.to_thread() or asgiref's sync_to_async(). This is said once for each function",
            self._spelling,
            name,
            place.function,
            place.file,
            place.line,
        )

    def _on_foreign(self, loop: Any) -> None:
        library = type(loop).__module__.partition(".")[0]
        if library not in self._said:
            self._said.add(library)
            logger.warning(
                "%s: %s runs an event loop of %s, which waits in code of its own and not in the "
                "hub: until it returns, no other task of this worker goes on, and no time limit "
                "ends it. Use asyncio's own event loop in tasks. This is said once",
                self._spelling,
                self._name(getcurrent()),
                library,
            )

    # -- whose coroutine it is

    def _name(self, greenlet: Any) -> str:
        job = _job_in(greenlet) or self._find_waiting(greenlet)
        if job is None:
            return f"{greenlet!r}, which is no task's,"
        name = job.args[0] if job.args and isinstance(job.args[0], str) else job.target
        return f"task {name}[{job.correlation_id}]"

    def _find_waiting(self, greenlet: Any) -> Job | None:
        """Return the job that waits for what runs in ``greenlet``, which it has started.

        ``async_to_sync`` runs its loop in a thread, and nothing says whose that is. But whoever
        waits for a thread, or the future of an executor, has it in a variable.
        """
        awaited = [greenlet, *filter(None, map(_outcome, _frames(greenlet)))]
        for ticket, *_ in self._slab.scan():
            job: Job | None = self._slab.get(ticket)
            if job is None or not isinstance(job.runner, Slot):
                continue
            for frame in _frames(job.runner.greenlet):
                if any(value is one for value in frame.f_locals.values() for one in awaited):
                    return job
        return None


def _job_in(greenlet: Any) -> Job | None:
    slot: Slot | None = greenlet.__dict__.get("_slot")
    return None if slot is None else slot.job


def _frames(greenlet: Any) -> Iterator[FrameType]:
    frame: FrameType | None = greenlet.gr_frame
    while frame is not None:
        yield frame
        frame = frame.f_back


def _outcome(frame: FrameType) -> Any:
    """Return what tells the outcome of the piece of work that ``frame`` runs, if it runs one."""
    module, function = frame.f_globals.get("__name__"), frame.f_code.co_name
    if (module, function) == ("concurrent.futures.thread", "run"):
        return getattr(frame.f_locals.get("self"), "future", None)
    if (module, function) == ("threading", "_bootstrap_inner"):
        return frame.f_locals.get("self")
    return None
