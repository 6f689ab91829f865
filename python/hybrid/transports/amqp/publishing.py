"""What is published on a channel, and confirmed by the broker or comes back.

Publishers wait for confirmations of their own messages, many at a time on one channel.

Who may switch: whoever publishes, until the socket has the message or the broker has confirmed it.
What the broker says is handled without switching by whoever reads.
"""

from __future__ import annotations

import socket
from typing import Any

import amqp
from amqp import spec
from amqp.exceptions import (
    ChannelError,
    MessageNacked,
    RecoverableConnectionError,
    error_for_code,
)
from amqp.serialization import dumps
from kombu.transport import pyamqp

from hybrid._rust import AmqpError, encode_publish
from hybrid.patches.originals import Originals
from hybrid.transports.amqp.call import Method
from hybrid.transports.amqp.calling import CallingChannel
from hybrid.transports.amqp.confirms import Confirms

#: What our way of publishing leaves out.
_PUBLISHING = Originals(
    (amqp.Channel, "basic_publish", pyamqp.Channel),
    (amqp.Channel, "_basic_publish", pyamqp.Channel),
)


class PublishingChannel(CallingChannel):
    """A channel on which many publish at a time."""

    def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        #: Whether those who handle what comes back are about to begin.
        self._is_returning = False
        super().__init__(connection, *args, **kwargs)

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
        self._connected().outbox.post(self.frame(spec.Confirm.Select, b"\1"))
        confirms = self.epoch.confirms = Confirms(self.connection)
        self._confirm_selected = True
        return confirms

    def _connected(self) -> Any:
        connection = self.connection
        if not connection:
            raise RecoverableConnectionError("basic_publish: connection closed")
        return connection

    def _post_frames(self, data: bytes) -> None:
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
        if self.owed is not None:
            self.pay_owed()

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
        try:
            data = encode_publish(
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
            data = connection.encode_frame(1, self.channel_id, spec.Basic.Publish, args, msg)
        self._post_frames(data)

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

    def send_method(
        self,
        sig: Method,
        format: Any = None,
        args: Any = None,
        content: Any = None,
        *rest: Any,
        **kwargs: Any,
    ) -> Any:
        """Send a method, and wait for the broker's answer if there is to be one."""
        if sig != spec.Basic.Publish:
            return super().send_method(sig, format, args, content, *rest, **kwargs)
        # By way of py-amqp's methods, as somebody has put something around them.
        data = self._connected().encode_frame(1, self.channel_id, sig, dumps(format, args), content)
        self._post_frames(data)
        return None

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
            self.owe(error)

    def _x_flow_ok(self, active: bool) -> None:
        self.connection.outbox.post(self.frame(spec.Channel.FlowOk, dumps("b", (active,))))
