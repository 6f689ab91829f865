"""Messages of AMQP brokers, decoded in Rust when somebody looks."""

from __future__ import annotations

from typing import Any

from amqp.exceptions import RecoverableConnectionError
from kombu.message import ACK_STATES
from kombu.transport import base, pyamqp

from hybrid._rust import AmqpDelivery, decode_properties
from hybrid.transports.amqp.epoch import Epoch
from hybrid.transports.message import OurMessage

#: Content encodings with which JSON reads the same from bytes and from text.
_AS_IT_COMES = frozenset({None, "utf-8", "binary"})


#: What :class:`StoredDelivery` takes, in its order.
DELIVERY_PARTS = ("delivery_tag", "redelivered", "exchange", "routing_key", "header", "body")


class StoredDelivery:
    """What a delivery was, from bytes that were kept of it."""

    __slots__ = DELIVERY_PARTS

    def __init__(
        self,
        delivery_tag: int,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        header: bytes,
        body: bytes,
    ) -> None:
        self.delivery_tag = delivery_tag
        self.redelivered = redelivered
        self.exchange = exchange
        self.routing_key = routing_key
        self.header = header
        self.body = body

    def properties(self) -> dict[str, Any]:
        """Return the properties, in a new dict."""
        return decode_properties(self.header)


class Message(OurMessage, pyamqp.Message):  # type: ignore[misc]
    """What kombu makes of a message that py-amqp delivers, made of a delivery.

    Args:
        delivery: The delivery.
        channel: The channel that it came on.
        epoch: The opening of that channel that it came in.
        consumer_tag: The consumer that it is for.

    Raises:
        hybrid._rust.AmqpError: Its properties, or the names in it, cannot be decoded.
    """

    def __init__(
        self,
        delivery: AmqpDelivery | StoredDelivery,
        channel: Any,
        epoch: Epoch,
        consumer_tag: str,
    ) -> None:
        properties = delivery.properties()
        headers = properties.get("application_headers") or {}
        self._delivery = delivery
        self.epoch = epoch
        info = {
            "consumer_tag": consumer_tag,
            "delivery_tag": delivery.delivery_tag,
            "redelivered": delivery.redelivered,
            "exchange": delivery.exchange,
            "routing_key": delivery.routing_key,
        }
        self.errors: list[Any] = []
        if headers.get("compression"):
            base.Message.__init__(
                self,
                body=decoded_body(delivery.body, properties),
                channel=channel,
                delivery_tag=delivery.delivery_tag,
                content_type=properties.get("content_type"),
                content_encoding=properties.get("content_encoding"),
                delivery_info=info,
                properties=properties,
                headers=headers,
            )
            return
        # What the constructors of kombu do, attribute by attribute: a call costs more than these.
        self.channel = channel
        self.delivery_tag = info["delivery_tag"]
        self.content_type = properties.get("content_type")
        self.content_encoding = properties.get("content_encoding")
        self.delivery_info = info
        self.headers = headers
        self.properties = properties
        self.accept = None
        self._decoded_cache = None
        self._state = "RECEIVED"

    @property
    def body(self) -> Any:
        """The body: text where py-amqp makes it text, by the content encoding."""
        try:
            return self.__dict__["body"]
        except KeyError:
            body = decoded_body(self._delivery.body, self.properties)
            self.__dict__["body"] = body
            return body

    @body.setter
    def body(self, body: Any) -> None:
        self.__dict__["body"] = body

    def _raw_body(self) -> Any:
        # What another encoding makes of these bytes is known when they are text.
        if "body" in self.__dict__ or self.content_encoding not in _AS_IT_COMES:
            return self.body
        return self._delivery.body

    def ack(self, multiple: bool = False) -> None:
        """Acknowledge the message; it is on its way to the broker when this returns.

        Raises:
            MessageStateError: That has been done, or the message was rejected.
            amqp.RecoverableConnectionError: The broker has taken it back.
        """
        if self._can_ack():
            self.channel.basic_ack(self.delivery_tag, multiple)
            self._state = "ACK"

    def ack_soon(self) -> None:
        """Acknowledge the message at the end of this turn of the hub, without waiting for that.

        Raises:
            Exception: As for :meth:`ack`.
        """
        if self._can_ack():
            self.channel.ack_soon(self.delivery_tag)
            self._state = "ACK"

    def ack_soon_log_error(self, logger: Any, errors: Any) -> None:
        """Acknowledge the message at the end of this turn, and log what keeps it from that."""
        try:
            self.ack_soon()
        except errors as exc:
            logger.critical("Couldn't ack %r, reason:%r", self.delivery_tag, exc, exc_info=True)

    def reject(self, requeue: bool = False) -> None:
        """Reject the message.

        Raises:
            Exception: As for :meth:`ack`.
        """
        self._check_channel()
        super().reject(requeue)

    def requeue(self) -> None:
        """Reject the message and put it back into its queue.

        Raises:
            Exception: As for :meth:`ack`.
        """
        self._check_channel()
        super().requeue()

    def _can_ack(self) -> bool:
        channel = self.channel
        if channel is not None and self.delivery_info["consumer_tag"] in channel.no_ack_consumers:
            return False
        if self._state in ACK_STATES:
            raise self.MessageStateError(f"Message already acknowledged with state: {self._state}")
        self._check_channel()
        return True

    def _check_channel(self) -> None:
        channel = self.channel
        if channel is None:
            raise self.MessageStateError("This message does not have a receiving channel")
        if self.epoch.reason is not None:
            # A channel that is opened anew counts from one: the tag is another message's now.
            raise RecoverableConnectionError(
                f"the channel that delivered message {self.delivery_tag} was closed, "
                "and the broker delivers it again"
            )


def decoded_body(body: bytes, properties: dict[str, Any]) -> Any:
    """Return the body that py-amqp's channel gives a message: text wherever that can be had."""
    if not body:
        return ""
    encoding = properties.get("content_encoding")
    try:
        return body if encoding is None else body.decode(encoding)
    except Exception:  # as py-amqp: an encoding may be anything
        return body
