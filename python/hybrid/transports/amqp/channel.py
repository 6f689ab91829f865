"""py-amqp's channel, taking and settling many messages at a time.

Acknowledgements are gathered and written at the end of the hub's turn, ``multiple`` only where
every delivery before is settled. Publishers wait for confirmations of their own messages, many at
a time on one channel. Methods that the broker answers are called by one greenlet at a time.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import amqp
import kombu
from amqp import spec
from amqp.exceptions import (
    ChannelError,
    MessageNacked,
    RecoverableConnectionError,
    error_for_code,
)
from kombu.transport import pyamqp

from hybrid._rust import (
    AckWindow,
    AmqpDelivery,
    AmqpError,
    encode_acks,
    encode_publish,
    encode_reject,
)
from hybrid.hubs.base import Greenlet
from hybrid.transports.amqp.confirms import Confirms
from hybrid.transports.amqp.message import Message, decoded_body

logger = logging.getLogger("kombu.transport.pyamqp")
_amqp_logger = logging.getLogger("amqp")

# kombu has no public way to ask whose callback this is; `test_amqp_transport` fails when it moves.
_RECEIVE = kombu.Consumer._receive_callback


class Channel(pyamqp.Channel):  # type: ignore[misc]
    """py-amqp's channel for the greenlets of a hub. Belongs to the hub's thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: The deliveries that the broker waits for, since this channel was opened.
        self.window = AckWindow()
        #: How often it has been opened; delivery tags are of one generation.
        self.generation = 0
        self._acknowledged_up_to = self._last_tag = 0
        self._gets_with_ack = False
        self._calling = threading.RLock()
        self._callers: list[Greenlet] = []
        super().__init__(*args, **kwargs)
        #: Publishers that wait for the broker to take charge of their messages.
        self.confirms = Confirms(self.connection)

    # -- life

    def open(self) -> Any:
        """Open the channel; what it knew of deliveries is of the channel before."""
        if not self.is_open:
            self._forget()
        return super().open()

    def _forget(self) -> None:
        self._forget_deliveries()
        self._confirm_selected = False

    def collect(self) -> None:
        """Forget everything; whoever waits is told."""
        self.confirms.fail(RecoverableConnectionError("connection already closed"))
        super().collect()

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        connection = self.connection
        outbox = connection.outbox
        outbox.post(self._frame(spec.Channel.CloseOk))
        if connection.is_closing or self.is_closing:
            return
        error = error_for_code(reply_code, reply_text, (class_id, method_id), ChannelError)
        # py-amqp waits until the channel is open again. Whoever reads must not wait for what is
        # yet to be read; what is sent on this channel from now on comes behind its opening.
        self.is_open = False
        self._forget()
        outbox.post(self._frame(spec.Channel.Open, b"\0"))
        is_told = self.confirms.fail(error)
        me = connection.hub.current()
        for caller in set(self._callers):
            if caller is not me:
                connection.raise_in(caller, error)
                is_told = True
        # It belongs to those who wait on this channel. Without any, whoever reads gets it.
        if not is_told or me in self._callers:
            raise error

    def _frame(self, method: tuple[int, int], args: bytes = b"") -> bytes:
        frame: bytes = self.connection.encode_frame(1, self.channel_id, method, args, None)
        return frame

    # -- calls that the broker answers

    @contextmanager
    def _one_caller(self) -> Iterator[None]:
        connection = self.connection
        if connection is None or not connection.hub.can_park():
            yield
            return
        with self._calling:
            me = connection.hub.current()
            self._callers.append(me)
            try:
                yield
            finally:
                self._callers.remove(me)
                connection.forget_debts(me)

    def awaits_answer(self) -> bool:
        """Tell whether the current greenlet calls a method that the broker answers."""
        return bool(self._callers) and self.connection.hub.current() in self._callers

    def send_method(
        self,
        sig: Any,
        format: Any = None,
        args: Any = None,
        content: Any = None,
        wait: Any = None,
        callback: Any = None,
        returns_tuple: bool = False,
    ) -> Any:
        """Send a method, and wait for the broker's answer if ``wait`` names one."""
        if not wait:
            return super().send_method(sig, format, args, content, wait, callback, returns_tuple)
        with self._one_caller():
            return super().send_method(sig, format, args, content, wait, callback, returns_tuple)

    def queue_declare(self, *args: Any, **kwargs: Any) -> Any:
        """Declare a queue; the arguments are py-amqp's."""
        with self._one_caller():
            return super().queue_declare(*args, **kwargs)

    def basic_get(self, queue: str = "", no_ack: bool = False, argsig: str = "Bsb") -> Any:
        """Get one message; the arguments are py-amqp's."""
        with self._one_caller():
            self._gets_with_ack = not no_ack
            return super().basic_get(queue, no_ack, argsig)

    def dispatch_method(self, method_sig: Any, payload: bytes, content: Any) -> None:
        """Handle a method of the broker."""
        if method_sig == spec.Basic.GetOk and self._gets_with_ack:
            # Now: an acknowledgement of a later message may cover it before its caller goes on.
            self._expect_settling(int.from_bytes(payload[4:12], "big"))
        super().dispatch_method(method_sig, payload, content)

    # -- consuming

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        no_local: bool = False,
        no_ack: bool = False,
        exclusive: bool = False,
        nowait: bool = False,
        callback: Callable[[Any], Any] | None = None,
        arguments: Any = None,
        on_cancel: Callable[[str], Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Consume from a queue; the arguments are py-amqp's."""
        is_new = bool(consumer_tag) and consumer_tag not in self.callbacks
        if is_new:
            # Messages may come in one read with the broker's answer.
            self.callbacks[consumer_tag] = callback
            if no_ack:
                self.no_ack_consumers.add(consumer_tag)
        try:
            return super().basic_consume(
                queue,
                consumer_tag,
                no_local,
                no_ack,
                exclusive,
                nowait,
                callback,
                arguments,
                on_cancel,
                **kwargs,
            )
        except BaseException:
            if is_new:
                self._remove_tag(consumer_tag)
            raise

    def deliver(self, delivery: AmqpDelivery) -> None:
        """Hand a message to its consumer.

        Raises:
            Exception: What the consumer raises.
        """
        try:
            consumer_tag = delivery.consumer_tag
        except AmqpError as exc:
            self._expect_settling(delivery.delivery_tag)
            self._refuse(delivery, exc)
            return
        if self.is_closing:
            _amqp_logger.warning(
                "Received method %s during closing channel %s. This method will be ignored",
                spec.Basic.Deliver,
                self.channel_id,
            )
            return
        if consumer_tag not in self.no_ack_consumers:
            self._expect_settling(delivery.delivery_tag)
        callback = self.callbacks.get(consumer_tag)
        try:
            if getattr(callback, "__func__", None) is _RECEIVE:
                message = Message(delivery, self, self.generation, consumer_tag)
            else:
                message = self._amqps_message(delivery)
        except AmqpError as exc:
            self._refuse(delivery, exc)
            return
        if type(message) is Message:
            callback(message)
        else:
            self._on_basic_deliver(
                consumer_tag,
                delivery.delivery_tag,
                delivery.redelivered,
                delivery.exchange,
                delivery.routing_key,
                message,
            )

    def _expect_settling(self, delivery_tag: int) -> None:
        self.window.delivered(delivery_tag)
        self._last_tag = delivery_tag

    def _amqps_message(self, delivery: AmqpDelivery) -> Any:
        properties = delivery.properties()
        body: Any = delivery.body or ""
        message = amqp.Message(decoded_body(body, properties) if self.auto_decode else body)
        message.properties = properties
        delivery.exchange, delivery.routing_key  # noqa: B018  which may be no text
        return message

    def _refuse(self, delivery: AmqpDelivery, exc: AmqpError) -> None:
        """Reject a message that nobody can read, at the cost of that message alone."""
        logger.critical(
            "Refused message %d of channel %s, which cannot be decoded (%s): %.500r",
            delivery.delivery_tag,
            self.channel_id,
            exc,
            delivery.header,
        )
        self.basic_reject(delivery.delivery_tag, requeue=False)

    def message_to_python(self, raw_message: Any) -> Any:
        """Return kombu's message for what was delivered."""
        if type(raw_message) is Message:
            return raw_message
        return super().message_to_python(raw_message)

    # -- settling

    def basic_ack(self, delivery_tag: int, multiple: bool = False, **_: Any) -> None:
        """Acknowledge a message; it is on its way to the broker when this returns.

        A message that the broker does not wait for is left alone: it would close the channel.

        Raises:
            amqp.RecoverableConnectionError: The channel is closed.
        """
        if multiple:
            delivery_tag = delivery_tag or self._last_tag  # 0 stands for all
            first, self._acknowledged_up_to = self._acknowledged_up_to + 1, delivery_tag
            for tag in range(first, delivery_tag):
                self.window.settle(tag)
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
        if self.window.settle(delivery_tag):
            connection.outbox.expect_acks(self)

    def ack_together(self, messages: list[Message]) -> list[bool]:
        """Acknowledge messages in one write, and tell which of them that was possible for.

        The others are as they were. Blocks until the write is done.
        """
        connection = self.connection
        if connection is None or self.no_ack_consumers:
            return [False] * len(messages)
        # The tags of an earlier generation are those of other messages now.
        acknowledged = [
            message._state == "RECEIVED" and message.generation == self.generation
            for message in messages
        ]
        ours = [message for message, can in zip(messages, acknowledged) if can]
        settled = [self.window.settle(message.delivery_tag) for message in ours]
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
        acks = self.window.flush()
        return encode_acks(self.channel_id, acks) if acks and self.connection is not None else b""

    def basic_reject(self, delivery_tag: int, requeue: bool, **_: Any) -> None:
        """Reject a message, unless the broker does not wait for it.

        Raises:
            amqp.RecoverableConnectionError: The channel is closed.
        """
        connection = self.connection
        if connection is None:
            raise RecoverableConnectionError("connection already closed")
        if self.window.forget(delivery_tag):
            connection.outbox.post(encode_reject(self.channel_id, delivery_tag, bool(requeue)))
            connection.outbox.wait()

    def basic_recover(self, requeue: bool = False) -> Any:
        """Have the broker deliver again what has not been acknowledged."""
        recovered = super().basic_recover(requeue)
        self._forget_deliveries()
        return recovered

    def _forget_deliveries(self) -> None:
        self.window = AckWindow()
        self.generation += 1
        self._acknowledged_up_to = self._last_tag = 0

    # -- publishing

    def _basic_publish(
        self,
        msg: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,  # noqa: ARG002
        argsig: str = "Bssbb",
    ) -> None:
        """Publish a message; it is on its way to the broker when this returns."""
        self._post(msg, exchange, routing_key, mandatory, immediate, argsig)
        self._wait_until_sent(timeout)

    basic_publish = _basic_publish

    def basic_publish_confirm(
        self,
        msg: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        argsig: str = "Bssbb",
    ) -> None:
        """Publish a message, and return when the broker has taken charge of it.

        Raises:
            amqp.MessageNacked: It has not.
            amqp.AMQPError: It has closed the channel, or found no queue for a ``mandatory`` one.
            socket.timeout: It has not said so in time.
        """
        connection = self._connected()
        if not connection.hub.can_park():
            raise RuntimeError("nothing can wait for a confirmation in the hub itself")
        if not self._confirm_selected:
            self._confirm_selected = True
            self.confirms.start()
            try:
                self.confirm_select()
            except BaseException:
                self._confirm_selected = False
                raise
        self._post(msg, exchange, routing_key, mandatory, immediate, argsig)
        # Only such a message may come back.
        body = msg.body if mandatory or immediate else None
        self.confirms.wait(exchange or "", routing_key or "", body, confirm_timeout or timeout)

    def _connected(self) -> Any:
        connection = self.connection
        if not connection:
            raise RecoverableConnectionError("basic_publish: connection closed")
        return connection

    def _post(
        self,
        msg: Any,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        immediate: bool,
        argsig: str,
    ) -> None:
        connection = self._connected()
        if connection.client_properties.get("capabilities", {}).get("connection.blocked"):
            # As py-amqp: the broker may have closed the channel, or the connection.
            connection.poll()
            connection = self._connected()
        connection.outbox.post(
            self._encoded(msg, exchange, routing_key, mandatory, immediate, argsig)
        )
        self.confirms.count()

    def _encoded(
        self,
        msg: Any,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        immediate: bool,
        argsig: str,
    ) -> bytes:
        connection = self.connection
        try:
            return encode_publish(
                self.channel_id,
                exchange,
                routing_key,
                bool(mandatory),
                bool(immediate),
                msg.properties,
                msg.body,
                connection.frame_max,
            )
        except (AmqpError, TypeError):
            args = amqp.serialization.dumps(
                argsig, (0, exchange, routing_key, mandatory, immediate)
            )
            encoded: bytes = connection.encode_frame(
                1, self.channel_id, spec.Basic.Publish, args, msg
            )
            return encoded

    def _wait_until_sent(self, timeout: float | None) -> None:
        connection = self._connected()
        if timeout is None:
            timeout = connection.write_timeout
        try:
            connection.outbox.wait(timeout)
        except socket.timeout:
            # As py-amqp: the socket is dead, and a channel error would not make kombu reconnect.
            raise RecoverableConnectionError("basic_publish: timed out") from None

    # -- confirmations

    def _on_basic_ack(self, delivery_tag: int, multiple: bool) -> None:
        self.confirms.settle(delivery_tag, multiple, None)
        super()._on_basic_ack(delivery_tag, multiple)

    def _on_basic_nack(self, delivery_tag: int, multiple: bool) -> None:
        self.confirms.settle(delivery_tag, multiple, MessageNacked)
        super()._on_basic_nack(delivery_tag, multiple)

    def _on_basic_return(
        self, reply_code: int, reply_text: str, exchange: str, routing_key: str, message: Any
    ) -> None:
        if not self.events.get("basic_return"):
            error = error_for_code(reply_code, reply_text, spec.Basic.Return, ChannelError)
            if self.confirms.come_back(exchange, routing_key, error):
                return
        super()._on_basic_return(reply_code, reply_text, exchange, routing_key, message)
