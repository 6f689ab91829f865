"""py-amqp's connection, read and written by many greenlets at a time.

py-amqp reads one frame at a time, from whichever greenlet waits for something, and two that read
at once take each other's bytes. Login, TLS, tuning, heartbeats, every method but ``basic.deliver``
and all errors are py-amqp's; what the socket has is read here, many frames at once.

A connection is opened once, and ends once, with a reason: kombu makes another one.

Who may switch: one greenlet at a time reads. That is whoever drains events, who has come for
deliveries and handles them; while nobody does and somebody waits for an answer or a confirmation,
it is a greenlet of the connection's own, never the one that waits. What has been read is handled
without switching, but for what consumers' callbacks are called for: deliveries and cancelled
consumers wait in an inbox, in order, for whoever drains events. So at each switch all that was read
has reached whom it concerns, and nobody who is ended leaves anything half done for others.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any, Callable

from amqp import spec
from amqp.exceptions import (
    ConnectionError as AMQPConnectionError,
)
from amqp.exceptions import (
    RecoverableConnectionError,
    UnexpectedFrame,
    error_for_code,
)
from amqp.serialization import dumps
from kombu.transport import pyamqp

from hybrid import hubs
from hybrid._rust import AmqpDelivery, AmqpError, AmqpReader
from hybrid.hubs.parking import ParkingLot, copied
from hybrid.transports.amqp.call import Call, Calls, Method
from hybrid.transports.amqp.channel import Channel
from hybrid.transports.amqp.inbox import Inbox
from hybrid.transports.amqp.outbox import Collector, Outbox

#: Bytes that are read at once.
READ_SIZE = 128 * 1024

_HEARTBEAT_FRAME = 8
#: What a read raises whose socket somebody closes meanwhile; the last one is eventlet's.
_CLOSED = (OSError, ValueError, EOFError)
#: What a read raises when there is nothing to be read.
_WANTS_MORE = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Frame = tuple[int, int, bytes]


class Connection(pyamqp.Connection):  # type: ignore[misc]
    """py-amqp's connection for the greenlets of a hub. Belongs to the hub's thread."""

    Channel = Channel

    #: py-amqp's; ``None`` when it is closed, or going to be.
    _transport: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        hub = hubs.running()
        if hub is None:
            raise RuntimeError("no pool of ours runs in this process")
        self.hub = hub
        #: Why it has ended.
        self.reason: BaseException | None = None
        #: Whether those who consume are still to be told.
        self._is_untold = False
        self.outbox = Outbox(hub, self._count_sent, self.end)
        #: What the broker is asked about the connection itself.
        self.calls = Calls(self)
        #: Decodes what is read, from the end of the handshake on.
        self._reader: AmqpReader | None = None
        #: Whether a greenlet reads, or is about to.
        self._is_read = False
        #: Whether somebody waits for the socket.
        self._is_receiving = False
        #: Whose answers and confirmations are still to be read.
        self._expected: set[Any] = set()
        #: What is for whoever drains events: deliveries, and what is to be called.
        self._inbox = Inbox()
        #: Those who drain events while another greenlet reads.
        self._arrivals = ParkingLot(hub)
        #: Counts what has been read, but for heartbeats.
        self._events = 0
        self._is_polled = self._is_dispatching = False
        super().__init__(*args, **kwargs)
        self._frame_writer_of_amqp: Callable[..., Any] = vars(self)["frame_writer_cls"]
        self.frame_writer_cls = self._make_frame_writer

    # -- life

    @property
    def connected(self) -> bool:
        """Whether it is open, as far as its consumers know.

        Where it is not, kombu connects again by itself before it drains events, and nobody would
        consume there: whoever drains events has to be told first.
        """
        return bool(super().connected or self._is_untold)

    def connect(self, callback: Callable[[], Any] | None = None) -> Any:
        """Connect and log in.

        Raises:
            OSError: The broker cannot be reached.
            amqp.AMQPError: It refuses.
        """
        if self.connected:
            return super().connect(callback)
        if self.reason is not None:
            raise RecoverableConnectionError("connection already closed")
        try:
            connected = super().connect(callback)
        except BaseException:
            # py-amqp leaves the socket to the collector unless it was the socket that failed.
            self.collect()
            raise
        reader = AmqpReader(self.frame_max)
        # py-amqp reads no further than the frame that it waits for, unless a read was cut short.
        rest, self.transport._read_buffer = self.transport._read_buffer, b""
        self._reader = reader
        if rest:
            self._take(rest)
        return connected

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close the connection; the arguments are py-amqp's.

        Raises:
            Exception: What broke it before.
        """
        try:
            return super().close(*args, **kwargs)
        except BaseException:
            # Nobody else closes the socket.
            self.collect()
            raise

    def collect(self) -> None:
        """Close the socket and forget the channels; whoever waits is told."""
        self.end(RecoverableConnectionError("connection already closed"))
        self._close_socket()
        super().collect()
        self._is_untold = False
        self._inbox.clear()

    def end(self, reason: BaseException) -> None:
        """Take note that the connection has ended; whoever waits is told."""
        if self.reason is not None:
            return
        self.reason = reason
        self.outbox.fail(reason)
        for channel in tuple((self.channels or {}).values()):
            if isinstance(channel, Channel):
                self._is_untold = self._is_untold or bool(channel.callbacks)
                channel.end(reason)
        self.calls.fail(reason)
        self._expected.clear()
        self._arrivals.fail(reason)
        # Whoever reads gets out of it, and no descriptor is left if nobody collects this.
        self._close_socket()

    def _close_socket(self) -> None:
        transport = self._transport
        if transport is None or not self._is_receiving:
            _close(transport)
            return
        # Whoever waits for it closes it: eventlet would not tell them that somebody else has.
        self._transport = None
        transport.connected = False
        with contextlib.suppress(OSError):
            transport.sock.shutdown(socket.SHUT_RDWR)

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        error = error_for_code(reply_code, reply_text, (class_id, method_id), AMQPConnectionError)
        self.outbox.post(self.encode_frame(1, 0, spec.Connection.CloseOk, b"", None))
        self.outbox.flush()
        self.end(error)
        if self._reader is None:
            raise error  # whoever connects has read it

    def _on_blocked(self) -> None:
        if self.on_blocked:
            # Not by whoever reads: it may wait.
            self.hub.spawn(super()._on_blocked)

    def _on_unblocked(self) -> None:
        if self.on_unblocked:
            self.hub.spawn(super()._on_unblocked)

    def _get_socket(self) -> Any:
        transport = self._transport
        sock = transport.sock if transport is not None else None
        if sock is None:
            raise RecoverableConnectionError("connection already closed")
        return sock

    def _count_sent(self) -> None:
        self.bytes_sent += 1

    def statistics(self) -> dict[str, int | float | str]:
        """Return how much waits to be read, handled and written, and why it has ended."""
        told: dict[str, int | float | str] = {
            "channels": sum(isinstance(one, Channel) for one in (self.channels or {}).values()),
            "events": self._events,
            "inbox": len(self._inbox),
            "expected": len(self._expected),
            "draining": len(self._arrivals),
            **{f"outbox_{name}": value for name, value in self.outbox.statistics().items()},
        }
        if self.reason is not None:
            told["ended"] = repr(self.reason)
        return told

    # -- writing

    def _make_frame_writer(self, connection: Any, _: Any) -> Callable[..., None]:
        """Return py-amqp's writer of frames, writing through the outbox to the new socket."""
        self.outbox.sock = self._get_socket()
        self._collector = collector = Collector()
        # It captures the method `write` of what it is given for a transport.
        self._encode_frame = self._frame_writer_of_amqp(connection, collector)

        def write_frame(*frame: Any) -> None:
            data = self.encode_frame(*frame)
            if self._is_dispatching:
                self.outbox.post(data)
            else:
                self.outbox.write(data)

        return write_frame

    def encode_frame(self, *frame: Any) -> bytes:
        """Return what py-amqp's ``frame_writer`` would write; the arguments are its own.

        Raises:
            Exception: py-amqp's, for what cannot be encoded.
        """
        try:
            self._encode_frame(*frame)
        finally:
            data = self._collector.take()
        return data

    # -- asking

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
        self.outbox.check()
        data = self.encode_frame(1, 0, sig, dumps(format, args) if format else b"", content)
        return self.calls.ask(Call(self.hub, sig, data, [wait]))

    def dispatch_method(self, method_sig: Method, payload: bytes, content: Any) -> None:
        """Handle a method of the broker that is about the connection itself."""
        if self.calls.awaits(method_sig):
            self.calls.settle(method_sig, [])
        super().dispatch_method(method_sig, payload, content)

    def on_inbound_method(
        self, channel_id: int, method_sig: Method, payload: bytes, content: Any
    ) -> None:
        """Pass a method of the broker on to its channel."""
        channel = (self.channels or {}).get(channel_id)
        if channel is None:
            raise UnexpectedFrame(f"Received {method_sig} for channel {channel_id}: it is not open")
        channel.dispatch_method(method_sig, payload, content)

    # -- reading

    def drain_events(self, timeout: float | None = None) -> None:
        """Handle what has come, or wait for something at most ``timeout`` seconds.

        Raises:
            socket.timeout: Nothing has come.
            OSError: The connection broke.
            amqp.AMQPError: The broker closed a channel or the connection.
        """
        if self._reader is None:
            super().drain_events(timeout)
            return
        events = self._events
        while not self._handle() and self._events == events:
            self._check()
            can_wait = timeout != 0 and self.hub.can_park()
            if can_wait:
                # A socket that always has something would keep the others from running. One of
                # them may read what this greenlet waits for.
                self.hub.sleep(0)
                if self._inbox or self._events != events or self.reason is not None:
                    continue
            if not self._is_read:
                self._read(timeout)
            elif can_wait:
                self._arrivals.park(timeout)
                self._handle()
                break
            else:
                raise socket.timeout("timed out")
        self._check()

    def _check(self) -> None:
        """Raise why the connection has ended, if it has."""
        if self.reason is not None:
            self._is_untold = False
            raise copied(self.reason)

    def poll(self) -> None:
        """Read what has come, once in a turn of the hub, if nobody else reads.

        Deliveries are for whoever drains events.

        Raises:
            Exception: Why the connection has ended.
        """
        if not (self._is_polled or self._is_read):
            self._is_polled = True
            self.hub.call_soon(self._end_poll)
            with contextlib.suppress(socket.timeout):
                self._read(0)
        self.outbox.check()

    def hand_over(self, call: Callable[[], None]) -> None:
        """Have ``call`` called by whoever drains events, behind the deliveries that have come."""
        self._inbox.append(call)

    def forget(self, channel: Any, number: int) -> None:
        """Drop the deliveries of a channel that has ended: the broker makes them again."""
        self._inbox.drop(channel, number)

    def note_deliveries(self, channel: Any) -> None:
        """Let a channel know of what has come for it, before something later is acknowledged."""
        self._inbox.note(channel)

    def handle_deliveries(self, channel: Any, consumer_tag: str) -> None:
        """Handle what has come for one consumer.

        Raises:
            Exception: What the consumer raises.
        """
        self._inbox.note(channel)
        theirs = self._inbox.take(channel, consumer_tag)
        try:
            while theirs:
                channel.deliver(theirs.popleft())
        finally:
            self._inbox.extendleft(reversed(theirs))

    def expect(self, one: object) -> None:
        """See to it that somebody reads, until :meth:`expect_no_more`."""
        self._expected.add(one)
        self._see_to_reading()

    def expect_no_more(self, one: object) -> None:
        """Take note that ``one`` has what it needed to be read."""
        self._expected.discard(one)

    def _end_poll(self) -> None:
        self._is_polled = False

    def _handle(self) -> bool:
        """Handle what has come for consumers, in order; tell whether there was anything."""
        inbox = self._inbox
        if not inbox:
            return False
        while inbox:
            one = inbox.popleft()
            if type(one) is AmqpDelivery:
                channel = (self.channels or {}).get(one.channel)
                if channel is not None:
                    channel.deliver(one)
            else:
                one()
        return True

    def _read(self, timeout: float | None) -> None:
        """Read what there is, and let those whom it concerns have it.

        Raises:
            socket.timeout: There was nothing.
            Exception: Why the connection has ended.
        """
        self._is_read = True
        try:
            self._read_now(timeout)
        finally:
            self._is_read = False
            self._arrivals.unpark_all()
            self._see_to_reading()

    def _see_to_reading(self) -> None:
        if self._expected and not self._is_read and self.reason is None:
            self._is_read = True
            self.hub.spawn(self._read_for_others)

    def _read_for_others(self) -> None:
        """Read while nobody drains events, and somebody expects something."""
        try:
            while self._expected and self.reason is None:
                with contextlib.suppress(Exception):  # the connection ends where it has to
                    self._read_now(None)
                if self._inbox or self._expected:
                    self._arrivals.unpark_all()
                    self.hub.sleep(0)  # a socket may always have something
        finally:
            self._is_read = False
            self._arrivals.unpark_all()
            self._see_to_reading()

    def _read_now(self, timeout: float | None) -> None:
        try:
            data = self._receive(timeout)
        except socket.timeout:
            raise
        except BaseException as exc:
            if self.reason is None:
                self._look_after(exc)
            if self.reason is not None and isinstance(exc, _CLOSED):
                raise copied(self.reason) from None
            raise
        self._take(data)

    def _look_after(self, exc: BaseException) -> None:
        """End the connection after what was raised while waiting, if it is broken.

        That may as well have been meant for the greenlet that waited. It is the socket that tells.
        """
        try:
            self._take(self._receive(0))
        except socket.timeout:
            pass
        except Exception as error:
            self.end(exc if isinstance(exc, OSError) else error)

    def _receive(self, timeout: float | None) -> bytes:
        sock = self._get_socket()
        transport = self._transport
        before = sock.gettimeout()
        can_wait = timeout != 0 and self.hub.can_park()
        self._is_receiving = True
        try:
            if not can_wait:
                # Not `settimeout(0)`: with that, eventlet's TLS sockets switch.
                sock.setblocking(False)
            elif timeout is not None:
                sock.settimeout(timeout)
            data: bytes = sock.recv(READ_SIZE)
        except _WANTS_MORE:
            raise socket.timeout("timed out") from None
        except ssl.SSLError as exc:
            # https://github.com/python/cpython/issues/54481
            if "timed out" in str(exc) or "did not complete" in str(exc):
                raise socket.timeout("timed out") from None
            raise
        finally:
            self._is_receiving = False
            if not can_wait:
                sock.setblocking(True)
            sock.settimeout(before)
            if self.reason is not None:  # that is why this has ended
                _close(transport)
        if not data:
            raise OSError("Server unexpectedly closed connection")
        return data

    def _take(self, data: bytes) -> None:
        """Handle what was read, without switching."""
        assert self._reader is not None
        self.bytes_recv += 1
        error: BaseException | None = None
        try:
            items = self._reader.feed(data)
        except AmqpError as exc:
            items, error = exc.items, UnexpectedFrame(f"Received what is no AMQP: {exc}")
        self._is_dispatching = True
        try:
            for item in items:
                if type(item) is AmqpDelivery:
                    self._inbox.append(item)
                elif self.reason is None:
                    self._events += item[0] != _HEARTBEAT_FRAME
                    self.on_inbound_frame(item)
        except Exception as exc:
            self.end(exc)
        finally:
            self._is_dispatching = False
        if error is not None:
            self.end(error)


def _close(transport: Any) -> None:
    if transport is not None:
        if transport.sock is not None:
            # The end of TLS is said, and not waited for.
            transport.sock.setblocking(False)
        transport.close()
