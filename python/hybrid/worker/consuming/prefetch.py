"""Telling the broker how many messages the worker may have.

Each task that waits for its time adds one to the prefetch count, and takes it away when it is due.
Celery's loop tells the broker after every message, which on AMQP is a round trip; above what AMQP
can count it says "no limit" every time, with a warning.

And after a reconnect Celery raises the count step by step, as messages are acknowledged, and tells
the broker there and then: in the slot of a task that is about to start, whose message is gone. A
connection that is lost while it waits for the answer would cost that task. So whoever sets the
count only counts, and the loop tells the broker, which waits for nobody.
"""

from __future__ import annotations

from logging import getLogger
from time import monotonic
from typing import Any, Callable

from kombu.common import PREFETCH_COUNT_MAX
from kombu.transport import virtual

logger = getLogger("kombu.common")

#: Seconds for which a change may wait for others while messages keep coming.
CHANGE_WAIT = 0.01


class Prefetch:
    """Passes the changes of a prefetch count on, many at a time.

    A change waits for :data:`CHANGE_WAIT` seconds, or until half of what may be out at first has
    come: the broker always has something left that it may send.

    Args:
        qos: kombu's count, which increments and decrements go to.
        channel: The channel that messages are consumed on.
    """

    def __init__(self, qos: Any, channel: Any) -> None:
        self._qos = qos
        self._tell_broker: Callable[..., Any] = qos.callback
        qos.callback = _leave_it_to_the_loop
        #: kombu counts itself here, so telling it costs nothing, and it knows no upper limit.
        self._is_virtual = isinstance(channel, virtual.Channel)
        self._step = max(int(qos.value or 0) // 2, 1)
        self._since = 0.0
        #: The count that the broker goes by.
        self._told: int | None = None
        #: Messages that are out and count, but not on the channel that messages are consumed on.
        self.elsewhere = 0
        #: Whether the broker sends all it has.
        self.is_unlimited = not self._limit(self.count)

    @property
    def count(self) -> int:
        """How many messages may be out on the channel; 0 for any number."""
        value = int(self._qos.value or 0)
        return value and max(value - self.elsewhere, 1)

    def pass_on(self, wait: float) -> float:
        """Tell the broker if it is time to, and return how long to wait for a message.

        Args:
            wait: How long the caller would wait.
        """
        told, count = self._told, self.count
        if told == count:
            self._since = 0.0
        elif (
            told is None
            or self._is_virtual
            or abs(count - told) >= self._step
            or self._has_waited()
        ):
            self.tell()
        else:
            return min(wait, CHANGE_WAIT)
        return wait

    def tell(self, is_new: bool = False) -> None:
        """Tell the broker.

        Args:
            is_new: It is another channel, which nothing has been told on.
        """
        qos, told, count = self._qos, self._told, self.count
        self._since = 0.0
        self._told = count
        qos.prev = qos.value
        limit = self._limit(count)
        self.is_unlimited = not limit
        if is_new or told is None or limit != self._limit(told):
            if count and not limit:
                logger.warning("QoS: Disabled: prefetch_count exceeds %r", PREFETCH_COUNT_MAX)
            self._tell_broker(prefetch_count=limit)

    def _limit(self, count: int) -> int:
        """Return what stands for ``count`` in the broker's terms."""
        return count if self._is_virtual or count <= PREFETCH_COUNT_MAX else 0

    def _has_waited(self) -> bool:
        now = monotonic()
        if not self._since:
            self._since = now
        return now - self._since >= CHANGE_WAIT


def _leave_it_to_the_loop(*, prefetch_count: int) -> None:
    """Tell nobody: the loop sees the count before it takes the next messages."""
