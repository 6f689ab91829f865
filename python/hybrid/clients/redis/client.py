"""A Redis client that all greenlets share: their commands are gathered on one connection.

:class:`MultiplexedRedis` is redis-py's client with the same methods. What greenlets execute at the
same time is sent in one write and read back together, and each gets its own reply or error. So a
thousand greenlets cost one connection, and at saturation one round trip.

Whatever needs a connection to itself has one from the pool, as in redis-py: blocking commands,
``WATCH``, publish/subscribe, and every call from another thread or from the hub itself.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Sequence
from typing import Any, Callable

import redis
from redis.client import Pipeline

from hybrid.hubs.base import Hub
from hybrid.hubs.gather import Gather
from hybrid.hubs.parking import copied

logger = logging.getLogger("kombu.transport.redis")

#: Commands that wait in the server, or change what the connection is used for.
# fmt: off
_ALONE = frozenset({
    "AUTH", "BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN",
    "CLIENT", "DISCARD", "EXEC", "HELLO", "MONITOR", "MULTI", "PSUBSCRIBE", "PUNSUBSCRIBE",
    "QUIT", "RESET", "SELECT", "SHUTDOWN", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE",
    "UNSUBSCRIBE", "UNWATCH", "WAIT", "WAITAOF", "WATCH", "XREAD", "XREADGROUP",
})
# fmt: on

Command = tuple[tuple[Any, ...], dict[str, Any]]


class _Call:
    """Commands whose replies belong together, and what has come of them."""

    __slots__ = (
        "commands",
        "is_posted",
        "is_resent",
        "is_transaction",
        "outcome",
        "sender",
        "sent_on",
        "wants_replies",
    )

    def __init__(
        self,
        commands: list[Command],
        is_transaction: bool = False,
        wants_replies: bool = True,
        is_posted: bool = False,
    ) -> None:
        self.commands = commands
        self.is_transaction = is_transaction
        self.wants_replies = wants_replies
        #: Whether nobody waits for it at all.
        self.is_posted = is_posted
        #: Who goes on when it is sent, or when that is known to have failed.
        self.sender: Any = None
        #: The number of the connection that it has been sent on.
        self.sent_on = 0
        #: Whether it is sent once more, because that connection was lost.
        self.is_resent = False
        #: One reply per command, or what is raised instead; ``None`` until it is known.
        self.outcome: list[Any] | BaseException | None = None


class MultiplexedRedis(redis.Redis):  # type: ignore[misc]
    """redis-py's client, on one connection for all greenlets of a hub.

    Thread-safe: other threads get connections of their own.

    Args:
        hub: The hub whose greenlets share the connection.
        options: As for :class:`redis.Redis`; with ``connection_pool`` the connection is one of
            that pool's, taken at the first command and given back by :meth:`close`.
    """

    def __init__(self, *, hub: Hub, **options: Any) -> None:
        super().__init__(**options)
        self.hub = hub
        self._shared: Any = None
        #: Calls that have been sent, and whose replies have not been read.
        self._unread: list[_Call] = []
        #: Counts the connections to the server.
        self._number = 1
        self._is_stale = False
        # The gatherer's greenlet must not keep a client alive that nobody uses any more.
        this = weakref.proxy(self)
        self._gather: Gather[_Call] = Gather(hub, lambda calls: this._perform(calls))

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute one command and return its reply."""
        if args[0] in _ALONE or not self.hub.can_park():
            return super().execute_command(*args, **options)
        return self.run([(args, options)], is_transaction=False)[0]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> MultiplexedPipeline:
        """Return a pipeline whose commands are sent together with those of other greenlets."""
        return MultiplexedPipeline(self, transaction, shard_hint)

    def run(self, commands: list[Command], is_transaction: bool) -> list[Any]:
        """Execute ``commands`` without others between them, and return their replies.

        Those of a failed command are exceptions in the list, except for a list of one.

        Raises:
            redis.RedisError: The connection failed, or the transaction as a whole did.
        """
        outcome: list[Any] = self._gather.submit(_Call(commands, is_transaction))
        if len(outcome) == 1 and isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome

    def send(self, commands: list[Command]) -> None:
        """Execute ``commands``, and return when they have been sent.

        Replies are dropped, and errors logged. If the connection is lost meanwhile they are sent
        again, so they have to be such that it makes no difference.

        Raises:
            redis.RedisError: They were not sent.
        """
        call = _Call(commands, wants_replies=False)
        # Not with `submit`: others in the same group may wait for replies.
        call.sender = self.hub.current()
        self._gather.post(call)
        try:
            while not call.sent_on and call.outcome is None:
                self.hub.park()
        finally:
            call.sender = None  # whoever was killed waits for something else now
        if isinstance(call.outcome, BaseException):
            raise call.outcome

    def post(self, commands: list[Command]) -> None:
        """Execute ``commands`` before whatever is executed after this, without waiting at all.

        Otherwise as :meth:`send`, with errors that are logged only.
        """
        self._gather.post(_Call(commands, wants_replies=False, is_posted=True))

    def renew(self) -> None:
        """Execute what comes next on a new connection to the server."""
        self._is_stale = True

    def close(self) -> None:
        """Give the connection back."""
        shared, self._shared = self._shared, None
        if shared is not None:
            if self._unread:
                shared.disconnect()  # the replies are nobody's
            self.connection_pool.release(shared)
        super().close()

    # -- in the greenlet of the gatherer

    def _perform(self, calls: list[_Call]) -> Sequence[Any]:
        connection = self._shared
        if connection is None or connection.pid != os.getpid():  # a fork has its parent's
            connection = self._shared = _get_connection(self.connection_pool)
            self._number += 1
            self._unread = []  # they were sent
        elif self._is_stale:
            self._disconnect(connection)
        self._is_stale = False

        try:
            connection.retry.call_with_retry(
                lambda: self._exchange(connection, calls), lambda _: self._disconnect(connection)
            )
        except Exception as exc:
            self._disconnect(connection)
            self._fail(exc, calls)
        except BaseException:
            self._disconnect(connection)  # half a reply may be left in it
            raise
        self._wake_senders(calls)
        if getattr(connection, "_re_auth_token", None) is not None:
            # redis-py does this when a connection goes back to its pool: this one never does.
            connection.re_auth()
        return [call.outcome for call in calls]

    def _wake_senders(self, calls: list[_Call]) -> None:
        senders = [call for call in calls if call.sender is not None]
        if senders:
            self.hub.call_soon(_wake, senders)

    def _disconnect(self, connection: Any) -> None:
        connection.disconnect()
        self._number += 1

    def _fail(self, exc: BaseException, calls: list[_Call]) -> None:
        unread, self._unread = self._unread, []
        for call in unread:
            if call.outcome is None and not call.is_resent:
                call.is_resent = True
                self._unread.append(call)
            elif call.outcome is None:
                call.outcome = copied(exc)
                _log_errors(call)
        for call in calls:
            if call.outcome is None:
                call.outcome = copied(exc)
                if call.is_posted or call.sent_on:
                    _log_errors(call)
        if self._unread:
            self._gather.post(_Call([]))

    def _exchange(self, connection: Any, calls: list[_Call]) -> None:
        """Send the calls that have not been sent, and read replies if somebody wants one."""
        unanswered = [call for call in (*self._unread, *calls) if call.outcome is None]
        packed: list[bytes] = []
        for call in unanswered:
            if call.sent_on != self._number:
                try:
                    packed += _pack(connection, call)
                except (redis.DataError, TypeError, UnicodeError) as exc:
                    call.outcome = exc  # the caller's own mistake
        if packed:
            connection.send_packed_command([b"".join(packed)])
        unanswered = [call for call in unanswered if call.outcome is None]
        for call in unanswered:
            call.sent_on = self._number
        self._wake_senders(unanswered)
        if any(call.wants_replies for call in unanswered):
            for call in unanswered:
                call.outcome = self._read_call(connection, call)
                if not call.wants_replies:
                    _log_errors(call)
            self._unread = []
        elif unanswered:
            self._unread = unanswered
            self._gather.post(_Call([]))  # reads them, when those who have sent them go on

    def _read_call(self, connection: Any, call: _Call) -> list[Any] | BaseException:
        if call.is_transaction:
            return self._read_transaction(connection, call.commands)
        return [self._read(connection, command) for command in call.commands]

    def _read(self, connection: Any, command: Command) -> Any:
        args, options = command
        try:
            return self.parse_response(connection, args[0], **options)
        except redis.ResponseError as exc:
            return exc

    def _read_transaction(
        self, connection: Any, commands: list[Command]
    ) -> list[Any] | BaseException:
        refusal: BaseException | None = None
        for _ in range(len(commands) + 1):  # MULTI, and one QUEUED for each command
            try:
                connection.read_response()
            except redis.ResponseError as exc:
                refusal = refusal or exc
        try:
            replies = connection.read_response()
        except redis.ResponseError as exc:
            return refusal or exc
        return [self._converted(reply, command) for reply, command in zip(replies, commands)]

    def _converted(self, reply: Any, command: Command) -> Any:
        args, options = command
        convert = self.response_callbacks.get(args[0])
        if convert is None or isinstance(reply, Exception):
            return reply
        return convert(reply, **{name: options[name] for name in options if name != "keys"})


class MultiplexedPipeline(Pipeline):  # type: ignore[misc]
    """redis-py's pipeline, sent through the connection that all greenlets share."""

    def __init__(self, client: MultiplexedRedis, transaction: bool, shard_hint: Any) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Execute what was called, and return one reply per command.

        Raises:
            redis.RedisError: A command failed and ``raise_on_error`` is set, or all did.
        """
        stack = self.command_stack
        needs_its_own = self.watching or self.connection is not None or self.scripts
        if needs_its_own or not stack or not self._client.hub.can_park():
            # redis-py is not typed in all its versions.
            return super().execute(raise_on_error)  # type: ignore[no-any-return]
        try:
            is_transaction = bool(self.transaction or self.explicit_transaction)
            replies = self._client.run(list(stack), is_transaction)
            if raise_on_error:
                self.raise_first_error(stack, replies)
            return replies
        finally:
            self.reset()


_shared: weakref.WeakValueDictionary[Any, MultiplexedRedis] = weakref.WeakValueDictionary()


def shared(
    hub: Hub,
    options: dict[str, Any],
    make: Callable[..., MultiplexedRedis] = MultiplexedRedis,
    variant: str = "",
) -> MultiplexedRedis:
    """Return the client of this process for one server, database and login.

    Args:
        hub: The hub of this process.
        options: What :class:`redis.ConnectionPool` takes. Its connections are closed when the
            last user of the client is gone.
        make: Makes the client.
        variant: Tells clients apart that are made differently.
    """
    login = sorted((name, repr(value)) for name, value in options.items())
    key = hub.name, variant, tuple(login)
    client = _shared.get(key)
    if client is None:
        pool = redis.ConnectionPool(**options)
        client = _shared[key] = make(hub=hub, connection_pool=pool)
        weakref.finalize(client, pool.disconnect)
    return client


def _wake(calls: list[_Call]) -> None:
    for call in calls:
        if call.sender is not None:
            call.sender.switch()


def _log_errors(call: _Call) -> None:
    outcomes = call.outcome if isinstance(call.outcome, list) else [call.outcome]
    for (args, _), outcome in zip(call.commands, outcomes):
        if isinstance(outcome, BaseException):
            logger.error("Redis did not execute %s: %r", args[0], outcome)


def _get_connection(pool: Any) -> Any:
    try:
        return pool.get_connection()
    except TypeError:  # redis-py before 5.3 asks for the name of a command
        return pool.get_connection("_")


def _pack(connection: Any, call: _Call) -> list[bytes]:
    commands = [args for args, _ in call.commands]
    if call.is_transaction:
        commands = [("MULTI",), *commands, ("EXEC",)]
    packed: list[bytes] = connection.pack_commands(commands)
    return packed
