"""Tasks that wait for their time: each is a timer entry with a packed message in it.

Who may switch: a greenlet of the timer that hands over a task that is due, and the line's own
greenlet, which hands over those behind it. Either may be held up by a receiver of a signal, or
ended by one; the line goes on.

Celery keeps a whole request for a task with an ETA, and its message besides. Here such a task is
one :class:`Held`, which is at once the entry in the timer's heap and what Celery's state knows the
task by, and becomes a request when it is due, or when somebody looks.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable
from weakref import WeakSet

from celery.utils.log import get_logger
from celery.worker import state as worker_state

from hybrid._rust import Packing
from hybrid.hubs.service import Service
from hybrid.transports.frozen import Form
from hybrid.worker.execution.timer import Entry

logger = get_logger("celery.worker.strategy")

#: Before 5.7, Celery forgets a waiting task until it is due.
_celerys: Any = getattr(worker_state, "scheduled_requests", None)
_scheduled_requests: Any = WeakSet() if _celerys is None else _celerys
#: The priority of tasks with an ETA in the timer, as in Celery; `inspect scheduled` shows it.
PRIORITY = 6


class Held(Entry):
    """A task that waits for its time.

    ``inspect scheduled`` finds a request among its arguments. In Celery's state it stands for the
    request: whatever it is asked for that it does not know itself, it asks the request. From then
    on there is one request, which also runs in the end.
    """

    __slots__ = ("_packed", "_request", "bucket", "id")

    fun: Holder
    _packed: bytes
    _request: Any
    bucket: Any
    id: str

    @property
    def args(self) -> tuple[Any, ...]:
        """The request, as in Celery's entries; not the one that will run, unless there is one."""
        return (self._request or self.fun.request_of(self._packed),)

    @property
    def request(self) -> Any:
        """The request, which is kept from now on."""
        request = self._request
        if request is None:
            request = self._request = self.fun.request_of(self._packed)
            request._eta_timer_entry = self
        return request

    @property
    def task(self) -> Any:
        """The task: a revoke asks for its backend, and a revoked task should stay small."""
        return self.fun.task

    @property
    def _eta_timer_entry(self) -> Held:
        return self

    def info(self, safe: bool = False) -> Any:
        """Return what ``inspect`` shows of the request."""
        return self.args[0].info(safe=safe)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.request, name)

    def __call__(self) -> None:
        """Go on, because it is due."""
        self.fun(self)


class Holder:
    """Holds the tasks of one name whose messages come through one channel.

    Args:
        task: The task.
        consumer: The worker's consumer.
        make_request: Makes a request of a message.
        form: How these messages become bytes.
        message: One of them, not frozen yet.
        data: The same, frozen. The others are probably much like it.
    """

    __name__ = "apply_eta_task"

    def __init__(
        self,
        task: Any,
        consumer: Any,
        make_request: Callable[[Any], Any],
        form: Form,
        message: Any,
        data: bytes,
    ) -> None:
        self.task = task
        self._consumer = consumer
        self._make_request = make_request
        self._form = form
        self.channel = message.channel
        self._accept = message.accept
        self._packing = Packing(data)

    def hold(self, message: Any, data: bytes, task_id: str, bucket: Any, request: Any) -> Held:
        """Return the entry that keeps a message.

        Args:
            message: Its channel lets go of it.
            data: The message, frozen.
            task_id: Of the task.
            bucket: The rate limit that applies when it is due, or ``None``.
            request: Its request if somebody has seen it, or ``None``.
        """
        held = Held(self)
        held._packed = self._packing.pack(data)
        held._request = request
        held.bucket = bucket
        held.id = task_id
        self._form.release(message)
        return held

    def request_of(self, packed: bytes) -> Any:
        """Return a request for what was packed."""
        return self._make_request(self._message_of(packed))

    def _message_of(self, packed: bytes) -> Any:
        message = self._form.thaw(self._packing.unpack(packed), self.channel)
        # As kombu's consumers do with every message.
        if self._accept is not None:
            message.accept = self._accept
        return message

    def __call__(self, held: Held) -> None:
        """Let a task go on that is due."""
        bucket = held.bucket
        if bucket is not None:
            # It has been waiting for its time, and goes on waiting for a token.
            request = self._release(held)
            if _celerys is not None:
                remember(request)
            self._consumer._limit_post_eta(request, bucket, 1)
        else:
            self._consumer.due_line.enter(held)

    def hand_over(self, held: Held) -> None:
        """Do what Celery does when a task is due that has no rate limit."""
        self._consumer.apply_eta_task(self._release(held))

    def _release(self, held: Held) -> Any:
        request = held._request or self.request_of(held._packed)
        forget(held)
        return request


class DueLine:
    """Tasks that are due and wait for the pool, in order.

    Thousands may be due at one instant. Each becomes a request shortly before the pool can start
    it: requests of all of them would take memory, and time of Python's collector.

    Args:
        pool: The pool that runs them.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._line: deque[Held] = deque()
        self._service = Service(pool.hub, self._line.__len__, self._serve_next)
        self._is_handing_over = False
        self._entered = 0

    def enter(self, held: Held) -> None:
        """Hand a task over, or let it wait behind the others."""
        self._entered += 1
        if self._is_handing_over or self._service.is_busy:
            self._line.append(held)
        elif self._pool.is_supplied:
            self._line.append(held)
            self._service.wake()
        else:
            # A receiver of a signal may block here; those behind wait in the line meanwhile.
            self._is_handing_over = True
            try:
                self._hand_over(held)
            finally:
                self._is_handing_over = False
                if self._line:
                    self._service.wake()

    def clear(self) -> None:
        """Forget all of them, because the broker gives them to somebody else."""
        self._line.clear()

    def statistics(self) -> dict[str, int]:
        """Return how many tasks have been due so far, and how many of them wait for the pool."""
        return {"entered": self._entered, "waiting": len(self._line)}

    def _serve_next(self) -> None:
        self._pool.wait_for_demand()
        if self._line:
            self._hand_over(self._line.popleft())

    def _hand_over(self, held: Held) -> None:
        if held.canceled:
            return
        try:
            held.fun.hand_over(held)
        except Exception as exc:  # as the timer does
            logger.error("Error in timer: %r", exc, exc_info=True)


def remember(request: Any) -> None:
    """Let Celery's state know that a task waits for its time."""
    _scheduled_requests.add(request)
    if _celerys is not None:
        worker_state.requests[request.id] = request


def forget(held: Held) -> None:
    """Undo :func:`remember`."""
    _scheduled_requests.discard(held)
    if _celerys is not None and worker_state.requests.get(held.id) is held:
        del worker_state.requests[held.id]


def cancel_all(timer: Any) -> None:
    """Give up those that wait, as the broker gives them to somebody again, where Celery does not.

    Celery 5.6 lets them run besides coming again; before, it clears the whole timer.
    """
    if _celerys is None:
        for held in tuple(_scheduled_requests):
            timer.cancel(held._eta_timer_entry)
        _scheduled_requests.clear()
