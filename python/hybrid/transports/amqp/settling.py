"""What has been delivered on a channel, and is acknowledged or rejected.

Acknowledgements are gathered and written at the end of the hub's turn, ``multiple`` only where
every delivery before is settled.

Who may switch: whoever waits until the socket has what was written. Then the channel's epoch may
have ended, and what was delivered in it has to do with no other.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import RecoverableConnectionError

from hybrid._rust import encode_acks, encode_reject
from hybrid.transports.amqp.calling import CallingChannel
from hybrid.transports.amqp.message import Message


class SettlingChannel(CallingChannel):
    """A channel whose deliveries are settled many at a time."""

    def basic_ack(self, delivery_tag: int, multiple: bool = False, **_: Any) -> None:
        """Acknowledge a message; it is on its way to the broker when this returns.

        A message that the broker does not wait for is left alone: it would close the channel.

        Raises:
            amqp.RecoverableConnectionError: The channel is closed.
        """
        if multiple:
            epoch = self.epoch
            delivery_tag = delivery_tag or epoch.last_tag  # 0 stands for all
            first, epoch.acknowledged_up_to = epoch.acknowledged_up_to + 1, delivery_tag
            for tag in range(first, delivery_tag):
                epoch.window.settle(tag)
        self.ack_soon(delivery_tag)
        self.connection.outbox.wait()

    def ack_soon(self, delivery_tag: int) -> None:
        """Acknowledge a message at the end of this turn of the hub.

        Raises:
            amqp.RecoverableConnectionError: The channel is closed.
        """
        connection = self.connection
        if connection is None:
            raise RecoverableConnectionError("connection already closed")
        if self.epoch.window.settle(delivery_tag):
            connection.outbox.expect_acks(self)

    def ack_together(self, messages: list[Message]) -> list[bool]:
        """Acknowledge messages in one write, and tell which of them that was possible for.

        The others are as they were. Blocks until the write is done.
        """
        connection = self.connection
        if connection is None or self.no_ack_consumers:
            return [False] * len(messages)
        # The tags of an earlier epoch are those of other messages now.
        epoch = self.epoch
        acknowledged = [
            message._state == "RECEIVED" and message.epoch is epoch for message in messages
        ]
        ours = [message for message, can in zip(messages, acknowledged) if can]
        settled = [epoch.window.settle(message.delivery_tag) for message in ours]
        if any(settled):
            try:
                connection.outbox.expect_acks(self)
                connection.outbox.wait()
            except Exception:
                return [False] * len(messages)
        for message in ours:
            message._state = "ACK"
        return acknowledged

    def take_acks(self) -> bytes:
        """Return the frames that acknowledge what has been settled since the last call."""
        acks = self.epoch.window.flush()
        return encode_acks(self.channel_id, acks) if acks and self.connection is not None else b""

    def basic_reject(self, delivery_tag: int, requeue: bool, **_: Any) -> None:
        """Reject a message, unless the broker does not wait for it.

        Raises:
            amqp.RecoverableConnectionError: The channel is closed.
        """
        connection = self.connection
        if connection is None:
            raise RecoverableConnectionError("connection already closed")
        if self.epoch.window.forget(delivery_tag):
            connection.outbox.post(encode_reject(self.channel_id, delivery_tag, bool(requeue)))
            connection.outbox.wait()

    def basic_recover(self, requeue: bool = False) -> Any:
        """Have the broker deliver again what has not been acknowledged."""
        recovered = super().basic_recover(requeue)
        self.epoch.forget_deliveries()
        return recovered
