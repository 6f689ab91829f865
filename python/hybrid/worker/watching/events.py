"""Task events, sent in groups.

Celery can send the events of tasks in groups, as one message of the type ``task.multi`` that every
receiver of events understands, and does so under prefork. Its green pools send each by itself.
"""

from __future__ import annotations

import socket
import weakref
from collections import deque
from contextlib import suppress
from time import monotonic, time
from typing import Any

import kombu
from celery.events import EventDispatcher
from celery.events import dispatcher as celery_dispatcher
from celery.utils.log import get_logger
from kombu.clocks import LamportClock

from hybrid._rust import EventLog, JsonText
from hybrid.detours import EVENTS
from hybrid.encoding import encode_json
from hybrid.hubs.base import Hub
from hybrid.hubs.parking import ParkingLot
from hybrid.hubs.service import Service
from hybrid.patches import celery as celery_patches
from hybrid.patches import kombu as kombu_patches
from hybrid.patches.originals import Originals
from hybrid.worker.publishing.producers import Producer

logger = get_logger("celery.events")

#: Events in one message.
GROUP_LIMIT = 2048
#: Groups that wait for a broker that takes none.
GROUPS_HELD = 16
#: Seconds that whoever has another event waits for room.
ROOM_WAIT = 10.0
#: The group of the events of tasks.
TASKS = "task"
#: What sending in groups leaves out.
SENDING = Originals((EventDispatcher, "send"), (EventDispatcher, "publish"))

#: What :meth:`EventDispatcher.send` takes besides the fields of an event.
_OPTIONS = frozenset({"blind", "utcoffset", "retry", "retry_policy", "Event"})


def takes_tasks(dispatcher: Any) -> bool:
    """Tell whether ``dispatcher``, which is there, sends the events of tasks.

    Without ``-E`` it works, too, and drops all but the worker's own events. Remote control can
    change that at any time.
    """
    groups = dispatcher.groups
    return bool(dispatcher.enabled and (not groups or TASKS in groups))


def gather(dispatcher: Any, hub: Hub, before: Buffer | None = None) -> Buffer | str:
    """Let ``dispatcher`` send the events of tasks in groups from now on.

    Args:
        dispatcher: Celery's, or none.
        hub: The hub of the worker.
        before: The buffer of the dispatcher before this one, whose connection was lost.

    Returns:
        The buffer; or why it goes on sending each event by itself.
    """
    if not dispatcher:
        return "no events are sent"
    if not SENDING.are_intact():
        return "; ".join(SENDING.explain())
    cls = type(dispatcher)
    if cls.send is not EventDispatcher.send or cls.flush is not EventDispatcher.flush:
        return f"{cls.__module__}.{cls.__qualname__} sends events in a way of its own"
    if "send" in vars(dispatcher):
        return "the worker's event dispatcher has a method send() of its own"
    buffer = Buffer(dispatcher, hub)
    celery_patches.EVENTS_GROUP.replace(dispatcher, frozenset({TASKS}))
    celery_patches.EVENTS_LIMIT.replace(dispatcher, float("inf"))
    celery_patches.EVENTS_BUFFERED.replace(dispatcher, buffer.take_over)
    celery_patches.EVENTS_SEND.replace(dispatcher, buffer.send)
    # For whoever has asked `takes_tasks` and `SENDING`. It returns how many events there are now,
    # so that 1 says that somebody has to flush; and 0 for one that has to be sent by `send`.
    celery_patches.EVENTS_RECORD.replace(dispatcher, buffer.log.record)
    celery_patches.EVENTS_FLUSH.replace(dispatcher, buffer.flush_soon)
    buffer.use_own_producer()
    dispatcher.on_enabled.add(buffer.use_own_producer)
    if before is not None:
        buffer.continue_from(before)
    return buffer


def explain() -> str | None:
    """Say why each event is sent by itself at the moment, if that is so."""
    return "; ".join(SENDING.explain()) or None


def _explain(fields: dict[str, Any]) -> str:
    options = sorted(_OPTIONS & fields.keys())
    if options:
        return f"events with {', '.join(options)}"
    return explain() or "events that only Celery encodes"


class Buffer:
    """Holds the events of tasks until the end of the hub's turn, and sends them in their order.

    Behind a broker that takes nothing, :data:`GROUPS_HELD` groups wait; whoever has another event
    waits for room, as Celery's tasks wait for the broker, and after :data:`ROOM_WAIT` seconds the
    oldest group is given up.

    Who may switch: the greenlet that sends groups, and whoever waits for room.

    Args:
        dispatcher: The dispatcher, which owns this buffer.
        hub: The hub of the worker.
    """

    def __init__(self, dispatcher: Any, hub: Hub) -> None:
        self._owner = weakref.ref(dispatcher)
        self._hub = hub
        self._service = Service(hub, self._count, self._flush)
        self._next_minute = 0.0
        self._groups: deque[list[Any] | JsonText] = deque()
        self._room = ParkingLot(hub)
        self._given_up = 0
        self._sent = 0
        #: The events after those groups.
        self.log = EventLog(dispatcher.clock, GROUP_LIMIT)

    def use_own_producer(self) -> None:
        """Encode events in Rust, with the producer that the dispatcher has been enabled with."""
        dispatcher = self._owner()
        if dispatcher is not None and type(dispatcher.producer) is kombu.Producer:
            kombu_patches.EVENTS_PRODUCER.specialise(dispatcher.producer, Producer)
        self.flush_soon()

    def continue_from(self, before: Buffer) -> None:
        """Send what ``before`` has not sent, ahead of everything else."""
        before._end_group()
        self._groups.extendleft(reversed(before._groups))
        before._groups.clear()
        before._room.unpark_all()
        if self._groups:
            self.flush_soon()

    def statistics(self) -> dict[str, int]:
        """Return the events and groups that wait, and the groups that were sent or given up."""
        return {
            "pending": len(self.log),
            "groups": len(self._groups),
            "waiting": len(self._room),
            "sent": self._sent,
            "given-up": self._given_up,
        }

    def send(self, type: str, **fields: Any) -> Any:
        """Send an event; the arguments are those of :meth:`EventDispatcher.send`."""
        dispatcher = self._owner()
        is_of_task = type.startswith("task-")
        if is_of_task and _OPTIONS.isdisjoint(fields) and SENDING.are_intact():
            if not takes_tasks(dispatcher):
                return None
            now = time()
            if now >= self._next_minute:  # Celery asks for the time zone each time
                self._next_minute = (now // 60 + 1) * 60
                self._begin_minute(dispatcher)
            if len(self.log) >= GROUP_LIMIT:
                self._end_group()
                self._make_room()
            count = self.log.record(type, fields)
            if count:
                if count == 1:
                    self.flush_soon()
                return None
        if is_of_task:
            EVENTS.note(_explain(fields))
        return EventDispatcher.send(dispatcher, type, **fields)

    def _begin_minute(self, dispatcher: Any) -> None:
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

    def _make_room(self) -> None:
        """Wait until not too many groups wait, where that can be done."""
        deadline = monotonic() + ROOM_WAIT
        while len(self._groups) >= GROUPS_HELD:
            left = deadline - monotonic()
            if left <= 0 or not self._hub.can_park():
                self._groups.popleft()
                self._give_up()
                return
            self.flush_soon()
            with suppress(socket.timeout):
                self._room.park(left)

    def _give_up(self) -> None:
        self._given_up += 1
        if self._given_up == 1:
            logger.error(
                "Events of tasks are given up, %d at a time, because the broker has taken none for "
                "%g s; the tasks themselves go on",
                GROUP_LIMIT,
                ROOM_WAIT,
            )

    def take_over(self) -> None:
        """Take over what Celery's own code has buffered: events that only it can encode."""
        dispatcher = self._owner()
        if dispatcher is None:
            return
        self._end_group()
        last = self._groups[-1] if self._groups else None
        if type(last) is not list or len(last) >= GROUP_LIMIT:
            self._make_room()
            last = []
            self._groups.append(last)
        buffer = dispatcher._group_buffer[TASKS]
        last.extend(buffer)
        buffer.clear()
        self.flush_soon()

    def flush_soon(self) -> None:
        """Send what there is when this turn of the hub is over. Thread-safe."""
        if self._hub.in_thread():
            self._service.wake()
        else:
            self._hub.call_soon_threadsafe(self.flush_soon)

    def _count(self) -> int:
        """Return how much can be sent: nothing once a connection is lost, and the next goes on."""
        dispatcher = self._owner()
        if dispatcher is None or not dispatcher.enabled or dispatcher.producer is None:
            return 0
        return len(self._groups) + len(self.log)

    def _flush(self) -> None:
        dispatcher: Any = self._owner()
        try:
            with dispatcher.mutex:
                # Publishing switches, and more events are buffered meanwhile.
                if not self._groups:
                    self._end_group()
                group = self._groups.popleft()
                self._room.unpark_all()
                dispatcher._publish(group, dispatcher.producer, f"{TASKS}.multi")
                self._sent += 1
        except Exception:
            # A dispatcher that is closed meanwhile has lost its producer, or its mutex.
            if dispatcher.enabled and dispatcher.producer is not None:
                logger.exception("Events of tasks were not sent")
