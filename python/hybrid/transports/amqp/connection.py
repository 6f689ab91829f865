"""py-amqp's connection, read and written by many greenlets at a time.

py-amqp reads one frame at a time, from whichever greenlet waits for something, and two that read
at once take each other's bytes. Here whoever is first reads what the socket has and handles all of
it, in order; others that wait park until a batch has come, and look again. Login, TLS, tuning,
heartbeats, every method but ``basic.deliver`` and all errors are py-amqp's.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import weakref
from collections import deque
from typing import Any, Callable

import amqp
from amqp import spec
from amqp.exceptions import (
    ConnectionError as AMQPConnectionError,
)
from amqp.exceptions import (
    RecoverableConnectionError,
    UnexpectedFrame,
    error_for_code,
)
from kombu.transport import pyamqp

from hybrid import hubs
from hybrid._rust import AmqpDelivery, AmqpError, AmqpReader
from hybrid.hubs.base import Greenlet
from hybrid.hubs.parking import copied
from hybrid.transports.amqp.channel import Channel
from hybrid.transports.amqp.outbox import Collector, Outbox

logger = logging.getLogger("kombu.transport.pyamqp")

#: Bytes that are read at once.
READ_SIZE = 128 * 1024

_METHOD_FRAME = 1
#: The first bytes of methods that nobody waits for by :meth:`Connection.drain_events`.
_CONFIRMS = frozenset(
    class_id.to_bytes(2, "big") + method_id.to_bytes(2, "big")
    for class_id, method_id in (spec.Basic.Ack, spec.Basic.Nack)
)
#: What a read raises that says nothing of the connection, as in ``amqp.transport``.
_UNAVAILABLE = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOENT, errno.EWOULDBLOCK})
_WANTS_MORE = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Frame = tuple[int, int, bytes]


class _Parked:
    """A greenlet that waits for another one to read."""

    __slots__ = ("error", "greenlet", "is_woken", "timed_out")

    def __init__(self, greenlet: Greenlet) -> None:
        self.greenlet: Greenlet | None = greenlet
        self.is_woken = False
        self.timed_out = False
        self.error: BaseException | None = None


class Connection(pyamqp.Connection):  # type: ignore[misc]
    """py-amqp's connection for the greenlets of a hub. Belongs to the hub's thread."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        hub = hubs.running()
        if hub is None:
            raise RuntimeError("no pool of ours runs in this process")
        self.hub = hub
        super().__init__(*args, **kwargs)
        self._frame_writer_of_amqp: Callable[..., Any] = vars(self)["frame_writer_cls"]
        self.frame_writer_cls = self._make_frame_writer
        self.outbox = self._new_outbox()
        #: Decodes what is read, from the end of the handshake on.
        self._reader: AmqpReader | None = None
        #: What has been read and not been handled.
        self._items: deque[AmqpDelivery | Frame] = deque()
        #: Counts what has been handled.
        self._handled = 0
        self._reading: Greenlet | None = None
        self._parked: dict[Greenlet, _Parked] = {}
        #: What greenlets have to raise when they come to wait for an answer.
        self._owed: weakref.WeakKeyDictionary[Any, BaseException] = weakref.WeakKeyDictionary()
        #: Publishers that wait for a confirmation, on all channels.
        self.unconfirmed = 0
        self._is_pumping = False
        self._is_polled = False
        #: Why the broker has closed the connection.
        self._reason: BaseException | None = None

    # -- life

    def connect(self, callback: Callable[[], Any] | None = None) -> Any:
        """Connect and log in.

        Raises:
            OSError: The broker cannot be reached.
            amqp.AMQPError: It refuses.
        """
        if self.connected:
            return super().connect(callback)
        self._reader = self._reason = None
        self._items.clear()
        self.outbox = self._new_outbox()
        connected = super().connect(callback)
        reader = AmqpReader(self.frame_max)
        # py-amqp reads no further than the frame that it waits for, unless a read was cut short.
        rest, self.transport._read_buffer = self.transport._read_buffer, b""
        self._reader = reader
        if rest:
            self._feed(rest)
        return connected

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close the connection; the arguments are py-amqp's.

        Raises:
            Exception: What broke it before.
        """
        try:
            return super().close(*args, **kwargs)
        except amqp.AMQPError:
            # As py-amqp does upon an error of the socket: nobody else closes that.
            self.collect()
            raise

    def collect(self) -> None:
        """Close the socket and forget the channels; whoever waits is told."""
        self._break(self._reason or RecoverableConnectionError("connection already closed"))
        super().collect()

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        self._reason = error_for_code(
            reply_code, reply_text, (class_id, method_id), AMQPConnectionError
        )
        super()._on_close(reply_code, reply_text, class_id, method_id)

    def _new_outbox(self) -> Outbox:
        return Outbox(self.hub, self._get_socket, self._count_sent, self._on_write_error)

    def _get_socket(self) -> Any:
        transport = self._transport
        sock = transport.sock if transport is not None else None
        if sock is None:
            raise RecoverableConnectionError("connection already closed")
        return sock

    def _count_sent(self) -> None:
        self.bytes_sent += 1

    def _on_write_error(self, exc: BaseException) -> None:
        if self._transport is not None:
            self._transport.connected = False
        self._tell_everybody(exc)

    def _break(self, exc: BaseException) -> None:
        self.outbox.fail(exc)
        self._tell_everybody(exc)

    def _tell_everybody(self, exc: BaseException) -> None:
        """Let those who wait for the broker raise ``exc``."""
        if not self.is_closing:  # else they wait for this very end
            for parked in self._parked.values():
                parked.error = copied(exc)
        self._wake()
        for channel in tuple((self.channels or {}).values()):
            if isinstance(channel, Channel):
                channel.confirms.fail(exc)

    # -- writing

    def _make_frame_writer(self, connection: Any, _: Any) -> Callable[..., None]:
        """Return py-amqp's writer of frames, writing through the outbox."""
        self._collector = collector = Collector()
        # It captures the method `write` of what it is given for a transport.
        self._encode_frame = encode = self._frame_writer_of_amqp(connection, collector)
        outbox = self.outbox

        def write_frame(*frame: Any) -> None:
            try:
                encode(*frame)
            finally:
                data = collector.take()
            channel = (self.channels or {}).get(frame[1])
            if isinstance(channel, Channel) and channel.awaits_answer():
                # It must not go on before it waits: another greenlet might read the answer first.
                outbox.post_behind_acks(data)
            else:
                outbox.write(data)

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
        if self._owed:
            error = self._owed.pop(self.hub.current(), None)
            if error is not None:
                raise error
        while not self._handle():
            if not self._read(timeout):
                return  # another greenlet has

    def poll(self) -> None:
        """Handle what has come, once in a turn of the hub, if nobody reads.

        Raises:
            Exception: As for :meth:`drain_events`.
        """
        if self._is_polled or self._reading is not None:
            return
        self._is_polled = True
        self.hub.call_soon(self._end_poll)
        with contextlib.suppress(socket.timeout):
            self.drain_events(timeout=0)

    def _end_poll(self) -> None:
        self._is_polled = False

    def _handle(self) -> bool:
        """Handle what has been read, in order; tell whether there was anything but heartbeats.

        Stops behind a method that somebody may wait for, so that what follows it finds whatever
        that greenlet does upon it.
        """
        items = self._items
        has_handled = False
        while items:
            if self.channels is None:
                items.clear()
                raise RecoverableConnectionError("Connection already closed")
            item = items.popleft()
            # Before it is handled, which may switch.
            self._handled += 1
            if type(item) is AmqpDelivery:
                self.channels[item.channel].deliver(item)
                has_handled = True
            elif self.on_inbound_frame(item):
                has_handled = True
                if item[0] != _METHOD_FRAME or item[2][:4] not in _CONFIRMS:
                    if self._parked and items:
                        self._wake()
                        self.hub.sleep(0)
                    break
        return has_handled

    def _read(self, timeout: float | None) -> bool:
        """Read what there is; return whether it was this greenlet that did.

        Raises:
            Exception: As for :meth:`drain_events`.
        """
        if timeout != 0 and self.hub.can_park():
            # A socket that always has something would keep the others from running. One of them
            # may read what this greenlet waits for.
            handled = self._handled
            self.hub.sleep(0)
            if self._handled != handled or self.hub.current() in self._owed:
                return False
            if self._items:
                return True
        if self._reading is not None:
            self._wait_for_reader(timeout)
            return False
        self._reading = self.hub.current()
        try:
            data = self._receive(timeout)
        except socket.timeout:
            raise
        except (OSError, RecoverableConnectionError) as exc:
            self._on_read_error(exc)
            raise
        finally:
            self._reading = None
            if self._parked:
                # They go on while, or after, this greenlet handles what has come.
                self._wake()
        self.bytes_recv += 1
        self._feed(data)
        return True

    def _receive(self, timeout: float | None) -> bytes:
        sock = self._get_socket()
        before = sock.gettimeout()
        try:
            if timeout is not None:
                sock.settimeout(timeout)
            elif not self.hub.can_park():
                sock.settimeout(0)
            data: bytes = sock.recv(READ_SIZE)
        except _WANTS_MORE:
            raise socket.timeout("timed out") from None
        except ssl.SSLError as exc:
            # https://github.com/python/cpython/issues/54481
            if "timed out" in str(exc) or "did not complete" in str(exc):
                raise socket.timeout("timed out") from None
            raise
        finally:
            sock.settimeout(before)
        if not data:
            raise OSError("Server unexpectedly closed connection")
        return data

    def _on_read_error(self, exc: Exception) -> None:
        if isinstance(exc, OSError) and exc.errno in _UNAVAILABLE:
            return
        if self._transport is not None:
            self._transport.connected = False
        self._break(exc)

    def _feed(self, data: bytes) -> None:
        assert self._reader is not None
        try:
            self._items.extend(self._reader.feed(data))
        except AmqpError as exc:
            self._items.extend(exc.items)
            while self._handle():
                pass
            error = UnexpectedFrame(f"Received what is no AMQP: {exc}")
            if self._transport is not None:
                self._transport.connected = False
            self._break(error)
            raise error from exc

    # -- waiting for whoever reads

    def raise_in(self, greenlet: Greenlet, exc: BaseException) -> None:
        """Let a greenlet that waits for the broker's answer raise ``exc``."""
        error = copied(exc)
        parked = self._parked.pop(greenlet, None)
        if parked is not None:
            parked.error = error
            self.hub.call_soon(self._resume, [parked])
        elif self._reading is greenlet:
            self.hub.call_soon(self._interrupt, greenlet, error)
        else:
            # It has been woken, or is about to wait: it finds this instead of an answer.
            self._owed[greenlet] = error

    def forget_debts(self, greenlet: Greenlet) -> None:
        """Take note that a greenlet waits for no answer any more."""
        self._owed.pop(greenlet, None)

    def _interrupt(self, greenlet: Greenlet, error: BaseException) -> None:
        if self._reading is greenlet:
            greenlet.throw(error)
        else:
            self._owed[greenlet] = error

    def _wait_for_reader(self, timeout: float | None) -> None:
        if timeout is not None and timeout <= 0:
            raise socket.timeout("timed out")
        if not self.hub.can_park():
            raise socket.timeout("timed out")
        me = self.hub.current()
        parked = self._parked[me] = _Parked(me)
        alarm = None
        if timeout is not None:
            alarm = self.hub.call_later(timeout, lambda: self._expire(parked))
        try:
            while not parked.is_woken:
                self.hub.park()
        finally:
            parked.greenlet = None  # whoever was killed waits for something else now
            if self._parked.get(me) is parked:
                del self._parked[me]
            if alarm is not None:
                alarm.cancel()
        if parked.error is not None:
            raise parked.error
        if parked.timed_out:
            raise socket.timeout("timed out")

    def _wake(self) -> None:
        parked, self._parked = self._parked, {}
        if parked:
            self.hub.call_soon(self._resume, list(parked.values()))

    def _resume(self, parked: list[_Parked]) -> None:
        for one in parked:
            if not one.is_woken and one.greenlet is not None:
                one.is_woken = True
                one.greenlet.switch()

    def _expire(self, parked: _Parked) -> None:
        if not parked.is_woken and parked.greenlet is not None:
            parked.timed_out = parked.is_woken = True
            parked.greenlet.switch()

    # -- confirmations

    def start_pump(self) -> None:
        """See to it that somebody reads while publishers wait for confirmations."""
        if not self._is_pumping:
            self._is_pumping = True
            self.hub.spawn(self._pump)

    def _pump(self) -> None:
        try:
            while self.unconfirmed:
                try:
                    self.drain_events()
                except socket.timeout:
                    pass
                except self.channel_errors as exc:
                    # Those who wait on that channel have been told.
                    logger.warning("The broker refuses what was published: %r", exc)
        except (OSError, amqp.AMQPError, AttributeError) as exc:
            self._tell_everybody(exc)
        finally:
            self._is_pumping = False
