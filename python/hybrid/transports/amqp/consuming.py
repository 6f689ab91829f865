"""What a channel gets from the broker, and hands to its consumers.

Who may switch: whoever calls a method that waits for an answer, and whoever handles deliveries, in
the consumers' callbacks.
"""

from __future__ import annotations

import logging
from typing import Any, Callable

import amqp
import kombu
from amqp import spec
from amqp.serialization import dumps
from kombu.transport import pyamqp

from hybrid._rust import AmqpDelivery, AmqpError, encode_reject
from hybrid.transports.amqp.call import Method
from hybrid.transports.amqp.epoch import Epoch
from hybrid.transports.amqp.message import Message, decoded_body
from hybrid.transports.amqp.settling import SettlingChannel

logger = logging.getLogger("kombu.transport.pyamqp")
_amqp_logger = logging.getLogger("amqp")

# kombu has no public way to ask whose callback this is; `test_amqp_transport` fails when it moves.
_RECEIVE = kombu.Consumer._receive_callback

#: Arguments of ``basic.get-ok``; ``basic.get-empty`` has fewer.
_GOT = 6


class ConsumingChannel(SettlingChannel):
    """A channel that gets messages, one at a time or as a consumer."""

    def basic_get(self, queue: str = "", no_ack: bool = False, argsig: str = "Bsb") -> Any:
        """Get one message; the arguments are py-amqp's.

        Whoever is ended meanwhile has got none: it goes back into its queue.
        """
        epoch: Epoch | None = None

        def expect_settling(method: Method, args: list[Any]) -> None:
            # At once: an acknowledgement of a later message may cover it before its caller goes on.
            nonlocal epoch
            if method == spec.Basic.GetOk and not no_ack:
                epoch = self.epoch
                self.connection.note_deliveries(self)
                epoch.expect_settling(args[0])

        def give_back(method: Method, args: list[Any]) -> None:
            if epoch is None:
                expect_settling(method, args)
            if epoch and epoch.reason is None and epoch.window.forget(args[0]):
                self.connection.outbox.post(encode_reject(self.channel_id, args[0], True))

        answer = self.ask(
            spec.Basic.Get,
            dumps(argsig, (0, queue, no_ack)),
            [spec.Basic.GetOk, spec.Basic.GetEmpty],
            expect_settling,
            give_back,
        )
        return self._on_get_empty(*answer) if len(answer) < _GOT else self._on_get_ok(*answer)

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
        argsig: str = "BssbbbbF",
    ) -> Any:
        """Consume from a queue; the arguments are py-amqp's."""
        if nowait and not consumer_tag:
            raise ValueError("Consumer tag must be specified when nowait is True")
        args = (0, queue, consumer_tag, no_local, no_ack, exclusive, nowait, arguments)

        def subscribe(_: Any, answer: list[Any]) -> None:
            # Messages may come in one read with the broker's answer.
            [tag] = answer
            self.callbacks[tag] = callback
            if on_cancel:
                self.cancel_callbacks[tag] = on_cancel
            if no_ack:
                self.no_ack_consumers.add(tag)

        def unsubscribe(_: Any, answer: list[Any]) -> None:
            # What comes until then is given back, and is not acknowledged where that is an error.
            [tag] = answer
            self.callbacks.pop(tag, None)
            self.cancel_callbacks.pop(tag, None)
            if no_ack:
                self.no_ack_consumers.add(tag)
            self.post_call(spec.Basic.Cancel, dumps("sb", (tag, False)), spec.Basic.CancelOk)

        if nowait:
            subscribe(None, [consumer_tag])
            self.send_method(spec.Basic.Consume, argsig, args)
            return consumer_tag
        [tag] = self.ask(
            spec.Basic.Consume,
            dumps(argsig, args),
            spec.Basic.ConsumeOk,
            subscribe,
            unsubscribe,
        )
        return tag

    def basic_cancel(self, consumer_tag: str, nowait: bool = False, argsig: str = "sb") -> Any:
        """Stop consuming; the arguments are py-amqp's. What has come before is handled first."""
        connection = self.connection
        if connection is None:
            return None
        if nowait:
            return self.send_method(spec.Basic.Cancel, argsig, (consumer_tag, nowait))
        [cancelled] = self.ask(
            spec.Basic.Cancel,
            dumps(argsig, (consumer_tag, nowait)),
            spec.Basic.CancelOk,
            undo=self._undo_cancel,
        )
        try:
            connection.handle_deliveries(self, consumer_tag)
        finally:
            self._remove_tag(consumer_tag)
        return cancelled

    def _undo_cancel(self, _: Method, args: list[Any]) -> None:
        # Whether a delivery that is still to be handled wants no acknowledgement is kept.
        self.callbacks.pop(args[0], None)
        self.cancel_callbacks.pop(args[0], None)

    def _on_basic_cancel_ok(self, consumer_tag: str) -> None:
        """Go on: whoever has cancelled handles what has come before."""

    def _on_basic_cancel(self, consumer_tag: str) -> None:
        epoch = self.epoch

        def cancel() -> None:
            if self.epoch is epoch:
                pyamqp.Channel._on_basic_cancel(self, consumer_tag)

        # It is for whoever handles deliveries, behind those that came before.
        self.connection.hand_over(cancel)

    def deliver(self, delivery: AmqpDelivery) -> None:
        """Hand a message to its consumer.

        Raises:
            Exception: What the consumer raises.
        """
        try:
            consumer_tag = delivery.consumer_tag
        except AmqpError as exc:
            self.epoch.expect_settling(delivery.delivery_tag)
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
            self.epoch.expect_settling(delivery.delivery_tag)
        callback = self.callbacks.get(consumer_tag)
        try:
            if getattr(callback, "__func__", None) is _RECEIVE:
                message = Message(delivery, self, self.epoch, consumer_tag)
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
