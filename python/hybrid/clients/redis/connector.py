"""Opens connections to a Redis server, however it is reached.

redis-py stays the owner of addresses, options, credentials, TLS and error classes: its own
connection class connects, authenticates and selects the database. After that it does nothing more
on such a connection. Its health check, its retries, its re-authentication and its handling of
maintenance notices each read a reply by themselves, and where many calls are on their way the next
reply is somebody else's. They are off here, or calls in the line: see
:class:`~hybrid.clients.redis.connection.Connection`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Callable

import redis
from redis.exceptions import ConnectionError as RedisConnectionError

#: Options that have redis-py read what is no reply to a command of ours.
_OFF = ("maint_notifications_pool_handler", "oss_cluster_maint_notifications_handler")

#: What hiredis returns for half a reply.
_INCOMPLETE: Any = None
#: What hiredis returns for a RESP3 push.
_Push: type | None = None
with suppress(ImportError):
    import hiredis
    from redis._parsers.hiredis import NOT_ENOUGH_DATA as _INCOMPLETE  # type: ignore[no-redef]

    _Push = getattr(hiredis, "PushNotification", None)


class Opened:
    """One opened connection: a socket, and what its bytes mean.

    Args:
        connection: redis-py's, connected.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.sock = connection._sock
        # Whoever reads waits for as long as it takes; the line of calls knows what is late.
        self.sock.settimeout(None)
        self.socket_timeout: float | None = getattr(connection, "socket_timeout", None)
        parser = connection._parser
        # The parser's own reader: it may hold the beginning of what follows the handshake.
        self._reader = getattr(parser, "_reader", None) if _INCOMPLETE is not None else None
        self._buffer = bytearray(getattr(connection, "_socket_read_size", 2**16))
        self._view = memoryview(self._buffer)
        #: Waits for bytes, and hands over the replies that are complete with them.
        self.read: Callable[[Callable[[Any], None]], None] = (
            self._read_hiredis if hasattr(self._reader, "gets") else self._read_one
        )

    def _read_hiredis(self, take: Callable[[Any], None]) -> None:
        count = self.sock.recv_into(self._view)
        if not count:
            raise RedisConnectionError("Connection closed by server.")
        reader: Any = self._reader
        reader.feed(self._buffer, 0, count)
        gets = reader.gets
        while True:
            reply = gets()
            if reply is _INCOMPLETE:
                return
            if _Push is None or type(reply) is not _Push:
                take(reply)

    def _read_one(self, take: Callable[[Any], None]) -> None:
        # With redis-py's parser in Python.
        try:
            reply = self._connection.read_response()
        except redis.ResponseError as exc:
            reply = exc
        take(reply)

    def close(self) -> None:
        """Close the socket."""
        self._connection.disconnect()

    def drop(self) -> None:
        """Drop the descriptor in a forked child, where others may wait for it, without a word.

        What waits for it there gets an error. Closing it would have eventlet forget it in the
        parent, too, with which it shares what it polls.
        """
        descriptor = self.sock.fileno()
        if descriptor >= 0:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, descriptor, inheritable=False)
            os.close(null)


class Connector:
    """Opens connections as those of a pool are, beside the pool.

    Beside it, so that the line never waits for a place in the pool: others hold those while they
    wait for the line.

    Args:
        pool: redis-py's.
    """

    def __init__(self, pool: Any) -> None:
        self._class = pool.connection_class
        self._options = dict(pool.connection_kwargs)
        #: Seconds of silence after which the server is asked for a sign of life; 0 for never.
        self.health_check_interval: float = self._options.get("health_check_interval") or 0
        if self.health_check_interval:
            self._options["health_check_interval"] = 0
        for name in _OFF:
            self._options.pop(name, None)
        if "maint_notifications_config" in self._options:
            self._options["maint_notifications_config"] = None
        self.decodes = bool(self._options.get("decode_responses"))
        self._packer: Any = None

    def pack(self, commands: Iterable[tuple[Any, ...]]) -> bytes:
        """Return commands as bytes.

        Raises:
            redis.DataError: Redis has no way to say it.
        """
        packer = self._packer
        if packer is None:
            packer = self._packer = self._class(**self._options)  # never connected
        return b"".join(packer.pack_commands(commands))

    def open(self) -> Opened:
        """Connect and authenticate, with redis-py's rules for trying again.

        Raises:
            redis.RedisError: That is not possible.
        """
        connection = self._class(**self._options)
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        return Opened(connection)
