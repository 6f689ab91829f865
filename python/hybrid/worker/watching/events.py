"""Task events, sent in groups.

Celery can send the events of tasks in groups, as one message of the type ``task.multi`` that every
receiver of events understands, and does so under prefork. Its green pools send each by itself.
"""

from __future__ import annotations

from collections import deque
from time import time
from typing import Any

import kombu
from celery.events import EventDispatcher
from celery.events import dispatcher as celery_dispatcher
from celery.utils.log import get_logger
from kombu.clocks import LamportClock

from hybrid import patching
from hybrid._rust import EventLog, JsonText
from hybrid.encoding import encode_json
from hybrid.hubs.base import Hub
from hybrid.worker.publishing.producers import Producer

logger = get_logger("celery.events")

#: Events in one message.
GROUP_LIMIT = 2048
_GROUP = "task"


#: What :meth:`EventDispatcher.send` takes besides the fields of an event.
_OPTIONS = frozenset({"blind", "utcoffset", "retry", "retry_policy", "Event"})


def takes_tasks(dispatcher: Any) -> bool:
    """Tell whether ``dispatcher``, which is there, sends the events of tasks.

    Without ``-E`` it works, too, and drops all but the worker's own events. Remote control can
    change that at any time.
    """
    groups = dispatcher.groups
    return bool(dispatcher.enabled and (not groups or _GROUP in groups))


def gather(dispatcher: Any, hub: Hub) -> str | None:
    """Let ``dispatcher`` send the events of tasks in groups from now on.

    Returns:
        Why it goes on sending each by itself; ``None`` if it does not.
    """
    if not dispatcher:
        return "no events are sent"
    cls = type(dispatcher)
    if cls.send is not EventDispatcher.send or cls.flush is not EventDispatcher.flush:
        return f"{cls.__module__}.{cls.__qualname__} sends events in a way of its own"
    dispatcher.buffer_group = frozenset({_GROUP})
    dispatcher.buffer_limit = float("inf")  # Celery's own flush, in the middle of a task
    buffer = _Buffer(dispatcher, hub)
    dispatcher.on_send_buffered = buffer.take_over
    dispatcher.send = buffer.send
    dispatcher.record = buffer.log.record  # for whoever has asked `takes_tasks`, at half the cost
    buffer.use_own_producer()
    dispatcher.on_enabled.add(buffer.use_own_producer)
    return None


class _Buffer:
    """Holds the events of tasks until the end of the hub's turn, and sends them in their order."""

    def __init__(self, dispatcher: Any, hub: Hub) -> None:
        self._dispatcher = dispatcher
        self._hub = hub
        self._is_flushing = False
        self._next_minute = 0.0
        self._groups: deque[list[Any] | JsonText] = deque()
        #: The events after those groups.
        self.log = EventLog(dispatcher.clock, self._schedule_flush, GROUP_LIMIT)

    def use_own_producer(self) -> None:
        """Encode events in Rust."""
        if type(self._dispatcher.producer) is kombu.Producer:
            patching.specialise(self._dispatcher.producer, Producer)

    def send(self, type: str, **fields: Any) -> Any:
        """Send an event; the arguments are those of :meth:`EventDispatcher.send`."""
        dispatcher = self._dispatcher
        if type.startswith("task-") and _OPTIONS.isdisjoint(fields):
            if not takes_tasks(dispatcher):
                return None
            now = time()
            if now >= self._next_minute:  # Celery asks for the time zone each time
                self._next_minute = (now // 60 + 1) * 60
                self._begin_minute()
            if len(self.log) >= GROUP_LIMIT:
                self._end_group()
            if self.log.record(type, fields):
                return None
        return EventDispatcher.send(dispatcher, type, **fields)

    def _begin_minute(self) -> None:
        dispatcher = self._dispatcher
        if dispatcher.serializer == "json" and type(dispatcher.clock) is LamportClock:
            common = {
                "hostname": dispatcher.hostname,
                "utcoffset": celery_dispatcher.utcoffset(),
                "pid": dispatcher.pid,
            }
            self.log.begin(encode_json(common) or "", self._next_minute)

    def _end_group(self) -> None:
        group = self.log.take()
        if group is not None:
            self._groups.append(group)

    def take_over(self) -> None:
        """Take over what Celery's own code has buffered: events that only it can encode."""
        self._end_group()
        last = self._groups[-1] if self._groups else None
        if type(last) is not list or len(last) >= GROUP_LIMIT:
            last = []
            self._groups.append(last)
        buffer = self._dispatcher._group_buffer[_GROUP]
        last.extend(buffer)
        buffer.clear()
        self._schedule_flush()

    def _schedule_flush(self) -> None:
        """Flush when this turn of the hub is over."""
        if not self._hub.in_thread():
            self._hub.call_soon_threadsafe(self._schedule_flush)
        elif not self._is_flushing:
            self._is_flushing = True
            self._hub.spawn(self._flush)

    def _flush(self) -> None:
        dispatcher = self._dispatcher
        try:
            while self._has_events:
                with dispatcher.mutex:
                    # Publishing switches, and more events are buffered meanwhile.
                    if not self._groups:
                        self._end_group()
                    group = self._groups.popleft()
                    dispatcher._publish(group, dispatcher.producer, f"{_GROUP}.multi")
        except Exception:
            # A dispatcher that is closed meanwhile has lost its producer, or its mutex.
            if dispatcher.enabled and dispatcher.producer is not None:
                logger.exception("Events of tasks were not sent")
        finally:
            self._is_flushing = False
            if self._has_events:
                self._schedule_flush()

    @property
    def _has_events(self) -> bool:
        return bool(self._groups or len(self.log))
