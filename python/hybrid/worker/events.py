"""Task events, sent in groups.

Celery can send the events of tasks in groups, as one message of the type ``task.multi`` that every
receiver of events understands, and does so under prefork. Its green pools send each by itself.
"""

from __future__ import annotations

from typing import Any

from celery.events import EventDispatcher
from celery.utils.log import get_logger

from hybrid.hubs.base import Hub

logger = get_logger("celery.events")

#: Events in one message.
GROUP_LIMIT = 100
_GROUP = "task"


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
    dispatcher.on_send_buffered = _Flusher(dispatcher, hub).schedule
    return None


class _Flusher:
    """Sends the events that have been buffered by the end of the hub's turn, in their order."""

    def __init__(self, dispatcher: Any, hub: Hub) -> None:
        self._dispatcher = dispatcher
        self._hub = hub
        self._is_flushing = False

    def schedule(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            self._hub.spawn(self._flush)

    def _flush(self) -> None:
        dispatcher = self._dispatcher
        buffer = dispatcher._group_buffer[_GROUP]
        try:
            while buffer:
                with dispatcher.mutex:
                    # Publishing switches, and more events are buffered meanwhile.
                    group, buffer[:GROUP_LIMIT] = buffer[:GROUP_LIMIT], []
                    dispatcher._publish(group, dispatcher.producer, f"{_GROUP}.multi")
        except Exception:
            # A dispatcher that is closed meanwhile has lost its producer, or its mutex.
            if dispatcher.enabled:
                logger.exception("Events of tasks were not sent")
        finally:
            self._is_flushing = False
