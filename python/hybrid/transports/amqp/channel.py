"""py-amqp's channel, taking and settling many messages at a time.

Acknowledgements are gathered and written at the end of the hub's turn, ``multiple`` only where
every delivery before is settled. Publishers wait for confirmations of their own messages, many at
a time on one channel. Methods that the broker answers are called one after another.

Who may switch: whoever calls a method that waits (for an answer, a confirmation, or until the
socket has what was written), in its own greenlet, and whoever handles deliveries, in the consumers'
callbacks. What the broker sends otherwise (answers, confirmations, the end of the channel) is
handled without switching by whoever reads. At each switch the channel's epoch may end: what is done
after it belongs to another one.
"""

from __future__ import annotations

import logging
import socket
from functools import partial
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
from amqp.protocol import queue_declare_ok_t
from amqp.serialization import dumps, loads
from kombu.transport import pyamqp

from hybrid._rust import (
    AmqpDelivery,
    AmqpError,
    encode_acks,
    encode_publish,
    encode_reject,
)
from hybrid.hubs.parking import copied
from hybrid.patches.originals import Originals
from hybrid.transports.amqp.call import Call, Calls, Method
from hybrid.transports.amqp.confirms import Confirms
from hybrid.transports.amqp.epoch import Epoch
from hybrid.transports.amqp.message import Message, decoded_body

logger = logging.getLogger("kombu.transport.pyamqp")
_amqp_logger = logging.getLogger("amqp")

# kombu has no public way to ask whose callback this is; `test_amqp_transport` fails when it moves.
_RECEIVE = kombu.Consumer._receive_callback

#: What our way of publishing leaves out.
_PUBLISHING = Originals(
    (amqp.Channel, "basic_publish", pyamqp.Channel),
    (amqp.Channel, "_basic_publish", pyamqp.Channel),
)


class Channel(pyamqp.Channel):  # type: ignore[misc]
    """py-amqp's channel for the greenlets of a hub. Belongs to the hub's thread."""

    connection: Any

    def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        #: What belongs to the present opening of this channel.
        self.epoch = Epoch()
        #: What the broker is asked, in this epoch and the following ones.
        self.calls = Calls(connection)
        #: Why the epoch before has ended, if nobody has been told yet.
        self._owed: BaseException | None = None
        #: Whether those who handle what comes back are about to begin.
        self._is_returning = False
        super().__init__(connection, *args, **kwargs)

    # -- life

    def close(
        self,
        reply_code: int = 0,
        reply_text: str = "",
        method_sig: Method = (0, 0),
        argsig: str = "BsBB",
    ) -> None:
        """Close the channel; the arguments are py-amqp's."""
        connection = self.connection
        if connection is None or connection.channels is None or self.epoch.reason is not None:
            self.connection = None
            return
        self.is_closing = True
        try:
            self.send_method(
                spec.Channel.Close,
                argsig,
                (reply_code, reply_text, method_sig[0], method_sig[1]),
                wait=spec.Channel.CloseOk,
            )
        except Exception as exc:
            if connection.reason is not None:
                self.collect()
            elif self.connection is None and isinstance(exc, RecoverableConnectionError):
                return  # the broker was first
            # Otherwise the caller was ended: the answer, which still comes, collects the channel.
            raise

    def collect(self) -> None:
        """Forget everything; whoever waits is told."""
        self.end(RecoverableConnectionError("connection already closed"))
        connection, number = self.connection, self.channel_id
        super().collect()
        self.is_closing = False
        if connection is not None:
            connection.forget(self, number)

    def end(self, reason: BaseException) -> None:
        """End the epoch, and all calls: no other epoch follows."""
        self.is_open = False
        self.epoch.end(reason)
        self.calls.fail(reason)

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        connection = self.connection
        outbox = connection.outbox
        outbox.post(self._frame(spec.Channel.CloseOk))
        error = error_for_code(reply_code, reply_text, (class_id, method_id), ChannelError)
        if connection.is_closing or self.is_closing:
            if not self.calls.awaits(spec.Channel.CloseOk):
                self.calls.lose(error)
                self.collect()
            return
        # py-amqp opens a channel again that the broker has closed. What is sent on it from now on
        # comes behind its opening.
        self.is_open = False
        call = self.calls.in_flight
        is_of_caller = call is not None and call.method == (class_id, method_id)
        is_consuming = bool(self.callbacks)
        ended, self.epoch = self.epoch, Epoch()
        connection.forget(self, self.channel_id)
        outbox.post(self._frame(spec.Channel.Open, b"\0"))
        is_told = ended.end(error)
        is_told = self.calls.lose(error) or is_told
        self.calls.send_next()
        # It belongs to those who wait on this channel, and to its consumers if it is no caller's.
        if not is_told or (is_consuming and not is_of_caller):
            self._owe(error)

    def _owe(self, error: BaseException) -> None:
        """Let whoever uses this channel next, or drains the connection, raise ``error``."""
        self._owed = error
        self.connection.hand_over(self._pay)

    def _pay(self) -> None:
        error, self._owed = self._owed, None
        if error is not None:
            raise copied(error)

    def _frame(self, method: Method, args: bytes = b"") -> bytes:
        frame: bytes = self.connection.encode_frame(1, self.channel_id, method, args, None)
        return frame

    def statistics(self) -> dict[str, int | float | str]:
        """Return what is in flight and out on this channel."""
        return {**self.epoch.statistics(), **self.calls.statistics()}

    # -- calls that the broker answers

    def send_method(
        self,
        sig: Method,
        format: Any = None,
        args: Any = None,
        content: Any = None,
        wait: Any = None,
        callback: Any = None,
        returns_tuple: bool = False,
    ) -> Any:
        """Send a method, and wait for the broker's answer if ``wait`` names one."""
        if sig == spec.Basic.Publish:
            # By way of py-amqp's methods, as somebody has put something around them.
            data = self._connected().encode_frame(
                1, self.channel_id, sig, dumps(format, args), content
            )
            self._post_message(data)
            return None
        if not wait:
            return super().send_method(sig, format, args, content, wait, callback, returns_tuple)
        answer = self._ask(
            sig, dumps(format, args) if format else b"", wait, undo=_UNDO.get(sig), content=content
        )
        if callback:
            callback()
        return answer if returns_tuple else (answer and answer[0])

    def _ask(
        self,
        sig: Method,
        args: bytes,
        wait: Any,
        on_answer: Callable[[Method, list[Any]], None] | None = None,
        undo: Callable[[Channel, Method, list[Any]], None] | None = None,
        content: Any = None,
    ) -> list[Any]:
        connection = self.connection
        if connection is None:
            raise RecoverableConnectionError("connection already closed")
        data = connection.encode_frame(1, self.channel_id, sig, args, content)
        call = Call(
            connection.hub,
            sig,
            data,
            wait if isinstance(wait, list) else [wait],
            on_answer,
            undo and partial(undo, self),
        )
        return self.calls.ask(call)

    def dispatch_method(self, method_sig: Method, payload: bytes, content: Any) -> None:
        """Handle a method of the broker, without waiting for anything."""
        if not self.calls.awaits(method_sig):
            # py-amqp waits for a channel that is opened again, and warns of what it does not await.
            if not (self.is_closing and method_sig == spec.Channel.OpenOk):
                super().dispatch_method(method_sig, payload, content)
            return
        method = self._METHODS[method_sig]
        args = loads(method.args, payload, 4)[0] if method.args else []
        if method.content:
            if self.auto_decode:
                content.body = decoded_body(content.body, content.properties)
            args.append(content)
        listener = self._callbacks.get(method_sig)
        # Before the listener, which may end the channel.
        self.calls.settle(method_sig, args)
        if listener is not None:
            listener(*args)

    def _undo_open(self, *_: Any) -> None:
        self.is_closing = True
        self._post_call(spec.Channel.Close, dumps("BsBB", (0, "", 0, 0)), spec.Channel.CloseOk)

    def _undo_cancel(self, _: Method, args: list[Any]) -> None:
        # Whether a delivery that is still to be handled wants no acknowledgement is kept.
        self.callbacks.pop(args[0], None)
        self.cancel_callbacks.pop(args[0], None)

    def _post_call(self, sig: Method, args: bytes, answer: Method) -> None:
        """Call a method for nobody."""
        if self.connection is None:
            return
        call = Call(self.connection.hub, sig, self._frame(sig, args), [answer])
        self.calls.post(call)

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Any = None,
        argsig: str = "BsbbbbbF",
    ) -> Any:
        """Declare a queue; the arguments are py-amqp's."""
        answer = self.send_method(
            spec.Queue.Declare,
            argsig,
            (0, queue, passive, durable, exclusive, auto_delete, nowait, arguments),
            wait=None if nowait else spec.Queue.DeclareOk,
            returns_tuple=True,
        )
        return None if nowait else queue_declare_ok_t(*answer)

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

        def give_back(_: Channel, method: Method, args: list[Any]) -> None:
            if epoch is None:
                expect_settling(method, args)
            if epoch and epoch.reason is None and epoch.window.forget(args[0]):
                self.connection.outbox.post(encode_reject(self.channel_id, args[0], True))

        answer = self._ask(
            spec.Basic.Get,
            dumps(argsig, (0, queue, no_ack)),
            [spec.Basic.GetOk, spec.Basic.GetEmpty],
            expect_settling,
            give_back,
        )
        return self._on_get_empty(*answer) if len(answer) < _GOT else self._on_get_ok(*answer)

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

        def unsubscribe(_: Channel, __: Any, answer: list[Any]) -> None:
            # What comes until then is given back, and is not acknowledged where that is an error.
            [tag] = answer
            self.callbacks.pop(tag, None)
            self.cancel_callbacks.pop(tag, None)
            if no_ack:
                self.no_ack_consumers.add(tag)
            self._post_call(spec.Basic.Cancel, dumps("sb", (tag, False)), spec.Basic.CancelOk)

        if nowait:
            subscribe(None, [consumer_tag])
            self.send_method(spec.Basic.Consume, argsig, args)
            return consumer_tag
        [tag] = self._ask(
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
        cancelled = self.send_method(
            spec.Basic.Cancel,
            argsig,
            (consumer_tag, nowait),
            wait=None if nowait else spec.Basic.CancelOk,
        )
        if not nowait:
            try:
                connection.handle_deliveries(self, consumer_tag)
            finally:
                self._remove_tag(consumer_tag)
        return cancelled

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

    # -- settling

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
        self._look()
        if _PUBLISHING.are_intact():
            self._post(msg, exchange, routing_key, mandatory, immediate, argsig)
            self._wait_until_sent(timeout)
        else:
            super().basic_publish(msg, exchange, routing_key, mandatory, immediate, timeout)
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
        self._look()
        confirms = self.epoch.confirms or self._start_confirming()
        if _PUBLISHING.are_intact():
            self._post(msg, exchange, routing_key, mandatory, immediate, argsig)
        else:
            super()._basic_publish(msg, exchange, routing_key, mandatory, immediate, timeout)
        # Only such a message may come back.
        body = msg.body if mandatory or immediate else None
        confirms.wait(exchange or "", routing_key or "", body, confirm_timeout or timeout)

    def confirm_select(self, nowait: bool = False) -> None:
        """Have the broker confirm what is published from now on; the argument is py-amqp's."""
        if self.epoch.confirms is None:
            self._start_confirming()
        if not nowait:
            super().confirm_select()

    def _start_confirming(self) -> Confirms:
        # Nobody waits for the answer: what is published next comes behind this, and who was ended
        # while it waited would leave the others without it. A broker that cannot confirm closes
        # the connection, and all who publish are told.
        self._connected().outbox.post(self._frame(spec.Confirm.Select, b"\1"))
        confirms = self.epoch.confirms = Confirms(self.connection)
        self._confirm_selected = True
        return confirms

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
        self._connected()
        self._post_message(self._encoded(msg, exchange, routing_key, mandatory, immediate, argsig))

    def _post_message(self, data: bytes) -> None:
        self._connected().outbox.post(data)
        confirms = self.epoch.confirms
        if confirms is not None:
            confirms.count()

    def _look(self) -> None:
        """Take note, as py-amqp, of what the broker may have closed before something is published.

        Raises:
            Exception: Why the connection, or the channel, has ended.
        """
        connection = self._connected()
        if connection.client_properties.get("capabilities", {}).get("connection.blocked"):
            connection.poll()
        if self._owed is not None:
            self._pay()

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
            args = dumps(argsig, (0, exchange, routing_key, mandatory, immediate))
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
            if connection.reason is None:
                raise  # it was the publisher that was ended
            # As py-amqp: the socket is dead, and a channel error would not make kombu reconnect.
            raise RecoverableConnectionError("basic_publish: timed out") from None

    # -- confirmations

    def _on_basic_ack(self, delivery_tag: int, multiple: bool) -> None:
        self._settle(delivery_tag, multiple, None)
        super()._on_basic_ack(delivery_tag, multiple)

    def _on_basic_nack(self, delivery_tag: int, multiple: bool) -> None:
        self._settle(delivery_tag, multiple, MessageNacked)
        super()._on_basic_nack(delivery_tag, multiple)

    def _settle(self, number: int, multiple: bool, error: type[BaseException] | None) -> None:
        confirms = self.epoch.confirms
        if confirms is None:
            return
        if self._is_returning:
            self.connection.hub.call_soon(confirms.settle, number, multiple, error)
        else:
            confirms.settle(number, multiple, error)

    def _end_returning(self) -> None:
        self._is_returning = False

    def _on_basic_return(
        self, reply_code: int, reply_text: str, exchange: str, routing_key: str, message: Any
    ) -> None:
        error = error_for_code(reply_code, reply_text, spec.Basic.Return, ChannelError)
        if self.events.get("basic_return"):
            # Not by whoever reads, for these may wait; and they begin before their publisher goes
            # on, whose confirmation comes behind this.
            hub = self.connection.hub
            hub.spawn(
                super()._on_basic_return, reply_code, reply_text, exchange, routing_key, message
            )
            self._is_returning = True
            hub.call_soon(self._end_returning)
        elif self.epoch.confirms is None or not self.epoch.confirms.come_back(
            exchange, routing_key, error
        ):
            self._owe(error)

    def _x_flow_ok(self, active: bool) -> None:
        self.connection.outbox.post(self._frame(spec.Channel.FlowOk, dumps("b", (active,))))


#: Arguments of ``basic.get-ok``; ``basic.get-empty`` has fewer.
_GOT = 6
#: What to do with an answer whose caller has gone.
_UNDO: dict[Method, Callable[..., None]] = {
    spec.Channel.Open: Channel._undo_open,
    spec.Basic.Cancel: Channel._undo_cancel,
}
