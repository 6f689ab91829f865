"""Messages as bytes, for as long as nobody needs more of them.

A message that waits for its time is kept as the bytes it came in, and made again when it is due.
There is one form per kind of message: :func:`form_of` says which. What comes back is a message as
the channel's own, received and not acknowledged.
"""

from __future__ import annotations

import abc
import marshal
from typing import Any

from kombu.transport import pyamqp

from hybrid.transports.amqp import message as amqp_message
from hybrid.transports.amqp.epoch import Epoch
from hybrid.transports.message import Message, decode_envelope
from hybrid.transports.redis.qos import QoS


class Form(abc.ABC):
    """How the messages of one kind become bytes, and bytes messages."""

    @abc.abstractmethod
    def freeze(self, message: Any) -> bytes | None:
        """Return ``message`` as bytes; ``None`` if it has something that would be lost."""

    @abc.abstractmethod
    def thaw(self, data: bytes, channel: Any) -> Any:
        """Return the message that was frozen, as ``channel`` received it."""

    @abc.abstractmethod
    def release(self, message: Any) -> None:
        """Let go of ``message`` wherever its channel keeps it, but for its delivery tag."""


class _Envelopes(Form):
    """kombu's envelopes: the text of one is all there is."""

    def freeze(self, message: Any) -> bytes | None:
        delivery = message.__dict__.get("_delivery")
        if delivery is None:
            return None
        raw = delivery.raw
        return raw if type(raw) is bytes else raw.encode()

    def thaw(self, data: bytes, channel: Any) -> Any:
        return channel.Message(decode_envelope(data), channel=channel)

    def release(self, message: Any) -> None:
        qos = message.channel.qos
        if isinstance(qos, QoS):
            qos.forget_message(message.delivery_tag)


class _Received:
    """What py-amqp gives kombu."""

    __slots__ = ("body", "delivery_info", "delivery_tag", "properties")

    def __init__(self, body: Any, delivery_info: dict[str, Any], properties: Any) -> None:
        self.body = body
        self.delivery_info = delivery_info
        self.delivery_tag = delivery_info["delivery_tag"]
        self.properties = properties


class _AMQP(Form):
    """AMQP: the properties, decoded by py-amqp, and the body.

    They go through :mod:`marshal`, which is the fastest there is and serves here because nobody
    but this process ever reads what it writes.
    """

    # The last one without references among its values, which cost time and depend on who else
    # has the values.
    VERSION = 2

    def freeze(self, message: Any) -> bytes | None:
        if message.errors or "compression" in message.headers:
            return None
        info = message.delivery_info
        try:
            return marshal.dumps(
                (tuple(info.items()), message.properties, message.body), self.VERSION
            )
        except ValueError:
            # A timestamp or a decimal number in a header.
            return None

    def thaw(self, data: bytes, channel: Any) -> Any:
        info, properties, body = marshal.loads(data)
        return channel.Message(_Received(body, dict(info), properties), channel=channel)

    def release(self, message: Any) -> None:
        pass  # it is the broker that keeps it


class _Deliveries(Form):
    """What our own AMQP channel delivers: the bytes of the properties and of the body."""

    def freeze(self, message: Any) -> bytes | None:
        delivery = message._delivery
        frozen = (
            message.epoch.number,
            message.delivery_info["consumer_tag"],
            *(getattr(delivery, name) for name in amqp_message.DELIVERY_PARTS),
        )
        return marshal.dumps(frozen, _AMQP.VERSION)

    def thaw(self, data: bytes, channel: Any) -> Any:
        number, consumer_tag, *parts = marshal.loads(data)
        epoch = channel.epoch if channel.epoch.number == number else Epoch.ended(number)
        return amqp_message.Message(
            amqp_message.StoredDelivery(*parts), channel, epoch, consumer_tag
        )

    def release(self, message: Any) -> None:
        pass  # it is the broker that keeps it


_ENVELOPES, _AMQP_MESSAGES, _DELIVERIES = _Envelopes(), _AMQP(), _Deliveries()


def form_of(message: Any) -> Form | None:
    """Return the form for messages of this kind; ``None`` where there is none."""
    if isinstance(message, Message):
        return _ENVELOPES
    if type(message) is amqp_message.Message:
        return _DELIVERIES
    if type(message) is pyamqp.Message:
        return _AMQP_MESSAGES
    return None
