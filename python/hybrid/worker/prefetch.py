"""Telling the broker how many messages the worker may have.

Each task that waits for its time adds one to the prefetch count, and takes it away when it is due.
Celery's loop tells the broker after every message, which on AMQP is a round trip; above what AMQP
can count it says "no limit" every time, with a warning.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from kombu.common import PREFETCH_COUNT_MAX
from kombu.transport import virtual

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
        #: kombu counts itself here, so telling it costs nothing, and it knows no upper limit.
        self._is_virtual = isinstance(channel, virtual.Channel)
        self._step = max(int(qos.value or 0) // 2, 1)
        self._since = 0.0

    def pass_on(self, wait: float) -> float:
        """Tell the broker if it is time to, and return how long to wait for a message.

        Args:
            wait: How long the caller would wait.
        """
        qos = self._qos
        before, count = qos.prev, qos.value
        if before == count:
            self._since = 0.0
        elif self._is_virtual and before is not None:
            qos.callback(prefetch_count=count)
            qos.prev = count
        elif before is None or abs(count - before) >= self._step or self._has_waited():
            self._since = 0.0
            if before is not None and min(before, count) > PREFETCH_COUNT_MAX:
                qos.prev = count  # it is unlimited, and stays so
            else:
                qos.update()
        else:
            return min(wait, CHANGE_WAIT)
        return wait

    @property
    def is_unlimited(self) -> bool:
        """Whether the broker sends all it has."""
        count = self._qos.value
        return not count or (count > PREFETCH_COUNT_MAX and not self._is_virtual)

    def _has_waited(self) -> bool:
        now = monotonic()
        if not self._since:
            self._since = now
        return now - self._since >= CHANGE_WAIT
