"""What has been read and is for whoever drains events.

Nothing here switches.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable

from hybrid._rust import AmqpDelivery, AmqpError


class Inbox(deque["AmqpDelivery | Callable[[], None]"]):
    """Deliveries, and calls that are to be made behind those that came before, in order."""

    def drop(self, channel: Any, number: int) -> None:
        """Drop the deliveries of a channel that has ended: the broker makes them again.

        Args:
            channel: The channel, which had that number.
            number: Its number.
        """
        kept = [
            one
            for one in self
            if type(one) is not AmqpDelivery
            or one.channel != number
            or _tag(one) in channel.no_ack_consumers
        ]
        self.clear()
        self.extend(kept)

    def note(self, channel: Any) -> None:
        """Let a channel know of what has come for it, before something later is acknowledged."""
        for one in self:
            if (
                type(one) is AmqpDelivery
                and one.channel == channel.channel_id
                and _tag(one) not in channel.no_ack_consumers
            ):
                channel.epoch.window.delivered(one.delivery_tag)

    def take(self, channel: Any, consumer_tag: str) -> deque[AmqpDelivery]:
        """Take out what has come for one consumer."""
        theirs: deque[AmqpDelivery] = deque()
        others: list[AmqpDelivery | Callable[[], None]] = []
        for one in self:
            if (
                type(one) is AmqpDelivery
                and one.channel == channel.channel_id
                and _tag(one) == consumer_tag
            ):
                theirs.append(one)
            else:
                others.append(one)
        self.clear()
        self.extend(others)
        return theirs


def _tag(delivery: AmqpDelivery) -> str | None:
    try:
        return delivery.consumer_tag
    except AmqpError:
        return None  # whoever handles it will see
