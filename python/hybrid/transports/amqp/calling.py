"""The life of a channel, opening after opening, and what the broker is asked on it.

Methods that the broker answers are called one after another.

Who may switch: whoever calls a method that waits for an answer, in its own greenlet. What the
broker sends is handled without switching by whoever reads.
"""

from __future__ import annotations

from typing import Any, Callable

from amqp import spec
from amqp.exceptions import ChannelError, RecoverableConnectionError, error_for_code
from amqp.protocol import queue_declare_ok_t
from amqp.serialization import dumps, loads
from kombu.transport import pyamqp

from hybrid.hubs.parking import copied
from hybrid.transports.amqp.call import Call, Calls, Method
from hybrid.transports.amqp.epoch import Epoch
from hybrid.transports.amqp.message import decoded_body


class CallingChannel(pyamqp.Channel):  # type: ignore[misc]
    """A channel of py-amqp's that is opened, closed, and asked. Belongs to the hub's thread."""

    connection: Any

    def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        #: What belongs to the present opening of this channel.
        self.epoch = Epoch()
        #: What the broker is asked, in this epoch and the following ones.
        self.calls = Calls(connection)
        #: Why the epoch before has ended, if nobody has been told yet.
        self.owed: BaseException | None = None
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
        outbox.post(self.frame(spec.Channel.CloseOk))
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
        outbox.post(self.frame(spec.Channel.Open, b"\0"))
        is_told = ended.end(error)
        is_told = self.calls.lose(error) or is_told
        self.calls.send_next()
        # It belongs to those who wait on this channel, and to its consumers if it is no caller's.
        if not is_told or (is_consuming and not is_of_caller):
            self.owe(error)

    def owe(self, error: BaseException) -> None:
        """Let whoever uses this channel next, or drains the connection, raise ``error``."""
        self.owed = error
        self.connection.hand_over(self.pay_owed)

    def pay_owed(self) -> None:
        """Raise what is owed, if anything is."""
        error, self.owed = self.owed, None
        if error is not None:
            raise copied(error)

    def frame(self, method: Method, args: bytes = b"") -> bytes:
        """Return the frame of a method without content."""
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
        if not wait:
            return super().send_method(sig, format, args, content, wait, callback, returns_tuple)
        data = dumps(format, args) if format else b""
        undo = self._undo_open if sig == spec.Channel.Open else None
        answer = self.ask(sig, data, wait, undo=undo, content=content)
        if callback:
            callback()
        return answer if returns_tuple else (answer and answer[0])

    def ask(
        self,
        sig: Method,
        args: bytes,
        wait: Any,
        on_answer: Callable[[Method, list[Any]], None] | None = None,
        undo: Callable[[Method, list[Any]], None] | None = None,
        content: Any = None,
    ) -> list[Any]:
        """Call a method, and return the arguments of the answer; as for :class:`Call`."""
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
            undo,
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

    def post_call(self, sig: Method, args: bytes, answer: Method) -> None:
        """Call a method for nobody."""
        if self.connection is None:
            return
        call = Call(self.connection.hub, sig, self.frame(sig, args), [answer])
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

    def _undo_open(self, *_: Any) -> None:
        self.is_closing = True
        self.post_call(spec.Channel.Close, dumps("BsBB", (0, "", 0, 0)), spec.Channel.CloseOk)
