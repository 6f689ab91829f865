"""One opening of a channel, and all that belongs to it alone.

py-amqp's channel is opened again when the broker has closed it, and counts deliveries and published
messages from one again. An epoch ends once, with a reason, and is never revived; what was delivered
or published in it has to do with no other.

Nothing here switches.
"""

from __future__ import annotations

import itertools
from typing import Any

from amqp.exceptions import RecoverableConnectionError

from hybrid._rust import AckWindow
from hybrid.transports.amqp.confirms import Confirms

_numbers = itertools.count(1)


class Epoch:
    """One opening of a channel: its deliveries and confirmations, until it ends.

    Belongs to the hub's thread.
    """

    __slots__ = ("acknowledged_up_to", "confirms", "last_tag", "number", "reason", "window")

    def __init__(self) -> None:
        #: Tells it from all others of this process.
        self.number = next(_numbers)
        #: The deliveries that the broker waits for.
        self.window = AckWindow()
        #: The last delivery, and the last that was acknowledged with all before.
        self.last_tag = self.acknowledged_up_to = 0
        #: Messages that the broker confirms, since it was asked to.
        self.confirms: Confirms | None = None
        #: Why it has ended.
        self.reason: BaseException | None = None

    @classmethod
    def ended(cls, number: int) -> Epoch:
        """Return what stands for an epoch that has ended."""
        epoch = cls()
        epoch.number = number
        epoch.reason = RecoverableConnectionError("the channel was closed")
        return epoch

    def end(self, reason: BaseException) -> bool:
        """End it; tell whether anybody was waiting for a confirmation."""
        if self.reason is not None:
            return False
        self.reason = reason
        return self.confirms is not None and self.confirms.fail(reason)

    def expect_settling(self, delivery_tag: int) -> None:
        """Take note of a delivery that is to be settled."""
        self.window.delivered(delivery_tag)
        self.last_tag = delivery_tag

    def forget_deliveries(self) -> None:
        """Take note that the broker waits for no delivery any more."""
        self.window = AckWindow()
        self.last_tag = self.acknowledged_up_to = 0

    def statistics(self) -> dict[str, int | float | str]:
        """Return its number, what is out, and why it has ended."""
        told: dict[str, Any] = {"epoch": self.number, "unsettled": len(self.window)}
        if self.confirms is not None:
            told.update(self.confirms.statistics())
        if self.reason is not None:
            told["ended"] = repr(self.reason)
        return told
