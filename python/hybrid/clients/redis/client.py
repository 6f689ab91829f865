"""A Redis client that all greenlets share: their commands stand in the line of one connection.

:class:`MultiplexedRedis` is redis-py's client with the same methods. What greenlets execute in one
turn of the hub is sent in one write, whatever replies are outstanding, and each gets its own reply
or error. So a thousand greenlets cost one connection, and nobody waits for the replies of others.

Whatever needs a connection to itself has one from the pool, as in redis-py: blocking commands,
``WATCH``, publish/subscribe, client-side caching, and every call from another thread or from the
hub itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Mapping
from operator import itemgetter
from typing import Any, Callable

import redis
from redis.client import NEVER_DECODE, Pipeline

from hybrid import runtime
from hybrid.clients.redis.call import Call, Command
from hybrid.clients.redis.connector import Connector
from hybrid.clients.redis.pipeline import MultiplexedPipeline
from hybrid.clients.redis.session import Session
from hybrid.hubs.base import Greenlet, Hub
from hybrid.hubs.parking import Place
from hybrid.patches.originals import Originals

#: Commands that wait in the server, or change what the connection is used for.
# fmt: off
_ALONE = frozenset({
    "AUTH", "BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN",
    "CLIENT", "DISCARD", "EXEC", "HELLO", "MONITOR", "MULTI", "PSUBSCRIBE", "PUNSUBSCRIBE",
    "QUIT", "RESET", "SELECT", "SHUTDOWN", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE",
    "UNSUBSCRIBE", "UNWATCH", "WAIT", "WAITAOF", "WATCH", "XREAD", "XREADGROUP",
})
# fmt: on

_arguments: Callable[[Command], tuple[Any, ...]] = itemgetter(0)
_name: Callable[[tuple[Any, ...]], Any] = itemgetter(0)

#: What the shared connection leaves out. Tracing libraries wrap it.
EXECUTING = Originals((redis.Redis, "execute_command"), (Pipeline, "execute"))

#: Whether redis-py's ``execute_command`` leaves its work to a method that can be our own, so that
#: what is put around the first sees what is done here.
IS_SEEN = hasattr(redis.Redis, "_execute_command")


class MultiplexedRedis(redis.Redis):  # type: ignore[misc]
    """redis-py's client, on one connection for all greenlets of a hub.

    Thread-safe: other threads get connections of their own.

    Args:
        hub: The hub whose greenlets share the connection.
        options: As for :class:`redis.Redis`; with ``connection_pool`` the connection is made as
            those of that pool, at the first command, and given up by :meth:`close`.
    """

    def __init__(self, *, hub: Hub, **options: Any) -> None:
        super().__init__(**options)
        self.hub = hub
        pool = self.connection_pool
        self._is_cached = getattr(pool, "cache", None) is not None
        self._session = session = Session(hub, Connector(pool))
        #: Waits while very much is outstanding, before something is posted.
        self.admit = session.admit
        # The session's greenlets do not keep a client alive that nobody uses any more.
        finalizer = weakref.finalize(self, session.finish)
        finalizer.atexit = False
        #: By greenlet: a command that others are shown, and what executes it.
        self._shown: dict[Greenlet, tuple[tuple[Any, ...], Callable[[], Any]]] = {}
        _renew_with(pool.connection_kwargs.get("credential_provider"), pool, session)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute one command and return its reply."""
        if EXECUTING.are_intact() and self.can_share([(args, options)]):
            return self.run([(args, options)], is_transaction=False)[0]
        return super().execute_command(*args, **options)

    def _execute_command(self, *args: Any, **options: Any) -> Any:
        """Do what redis-py's ``execute_command``, with all that is around it, comes to."""
        shown = self._shown.get(self.hub.current()) if self._shown else None
        if shown is not None and shown[0] == args:
            return shown[1]()
        if self.can_share([(args, options)]):
            return self.run([(args, options)], is_transaction=False)[0]
        return super()._execute_command(*args, **options)

    def show(self, commands: list[Command], execute: Callable[[], Any]) -> Any:
        """Execute ``commands`` by ``execute``, and return what that returns.

        What tracing libraries have put around redis-py's methods sees them as redis-py would
        execute them, in the greenlet of the caller.

        Raises:
            Exception: What ``execute`` raises.
        """
        if not (self.is_seen and self.hub.can_park()):
            return execute()
        if len(commands) > 1:
            return MultiplexedPipeline(self, transaction=False, shard_hint=None).show(
                commands, execute
            )
        [(args, options)] = commands
        current = self.hub.current()
        before = self._shown.pop(current, None)  # whoever looks may ask for something itself
        self._shown[current] = args, execute
        try:
            return super().execute_command(*args, **options)
        finally:
            del self._shown[current]
            if before is not None:
                self._shown[current] = before

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> MultiplexedPipeline:
        """Return a pipeline whose commands are sent together with those of other greenlets."""
        return MultiplexedPipeline(self, transaction, shard_hint)

    @property
    def is_seen(self) -> bool:
        """Whether something has been put around redis-py's methods, and can be shown commands."""
        return IS_SEEN and not EXECUTING.are_intact()

    def can_share(self, commands: list[Command]) -> bool:
        """Tell whether ``commands`` can be executed here and now on the shared connection."""
        if self._is_cached or not self.hub.can_park():
            return False
        if not (IS_SEEN or EXECUTING.are_intact()):
            return False
        if self._session.decodes and any(NEVER_DECODE in options for _, options in commands):
            return False
        return _ALONE.isdisjoint(map(_name, map(_arguments, commands)))

    @property
    def is_connected(self) -> bool:
        """Whether the shared connection is open, as far as is known."""
        return self._session.is_connected

    def call(self, *args: Any) -> Any:
        """Execute one command, and return its reply as it came.

        Raises:
            redis.RedisError: The command failed, or the connection did.
        """
        if not EXECUTING.are_intact():
            return super().execute_command(*args)
        session = self._session
        session.admit()
        place = Place(self.hub)
        session.post(Call([(args, {})], session.pack([args]), place=place))
        [reply] = place.wait()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def run(self, commands: list[Command], is_transaction: bool) -> list[Any]:
        """Execute ``commands`` without others between them, and return their replies.

        Those of a failed command are exceptions in the list, except for a list of one.

        Raises:
            redis.RedisError: The connection failed, or the transaction as a whole did.
        """
        self._session.admit()
        place = Place(self.hub)
        self._session.post(self._make(commands, is_transaction, place=place))
        replies = place.wait()
        if is_transaction:
            return self._read_transaction(replies, commands)
        outcome = [self._read(reply, command) for reply, command in zip(replies, commands)]
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
        self.show(commands, lambda: self._send(commands))

    def _send(self, commands: list[Command]) -> None:
        session = self._session
        session.admit(is_urgent=True)
        place = Place(self.hub)
        session.post(self._make(commands, survives_loss=True, place=place, wants_replies=False))
        session.flush()
        place.wait()  # where there is no connection, or the socket is full

    def post(
        self,
        commands: list[Command],
        on_end: Callable[[Call], None] | None = None,
        survives_loss: bool | None = None,
    ) -> None:
        """Execute ``commands`` before whatever is executed after this, without waiting at all.

        Otherwise as :meth:`send`, with errors that are logged only. In the hub's thread.

        Args:
            commands: The commands.
            on_end: Called with their replies, or with the error. Must not switch.
            survives_loss: Whether they are sent again if the connection is lost; by default, those
                whose end nobody wants.
        """
        if survives_loss is None:
            survives_loss = on_end is None
        self._session.post(self._make(commands, survives_loss=survives_loss, on_end=on_end))

    def collect(self, collector: Callable[[], None]) -> None:
        """Call ``collector`` before the next write, in the hub's thread, to :meth:`post`.

        So what has come together in one turn can be one command.
        """
        self._session.collect(collector)

    def flush(self) -> None:
        """Send now what has been posted, as far as the socket takes it. In the hub's thread."""
        self._session.flush()

    def renew(self) -> None:
        """Execute what comes next on a new connection to the server."""
        self._session.close()

    def close(self) -> None:
        """Give the connection up, when it has brought the answers that are still to come."""
        session = getattr(self, "_session", None)  # redis-py closes what it could not make
        if session is not None:
            session.close()
        super().close()

    def statistics(self) -> dict[str, Any]:
        """Return what is outstanding on the shared connection, and how earlier ones ended."""
        return self._session.statistics()

    def _make(
        self,
        commands: list[Command],
        is_transaction: bool = False,
        survives_loss: bool = False,
        on_end: Callable[[Call], None] | None = None,
        place: Place | None = None,
        wants_replies: bool = True,
    ) -> Call:
        said = map(_arguments, commands)
        data = self._session.pack((("MULTI",), *said, ("EXEC",)) if is_transaction else said)
        return Call(commands, data, is_transaction, survives_loss, on_end, place, wants_replies)

    def _read(self, reply: Any, command: Command) -> Any:
        args, options = command
        try:
            return self.parse_response(_Answered(reply), args[0], **options)
        except redis.ResponseError as exc:
            return exc

    def _read_transaction(self, replies: list[Any], commands: list[Command]) -> list[Any]:
        *queued, executed = replies  # MULTI, and one QUEUED for each command; then EXEC
        if isinstance(executed, BaseException):
            refusals = (reply for reply in queued if isinstance(reply, BaseException))
            raise next(refusals, executed)
        return [self._converted(reply, command) for reply, command in zip(executed, commands)]

    def _converted(self, reply: Any, command: Command) -> Any:
        args, options = command
        convert = self.response_callbacks.get(args[0])
        if convert is None or isinstance(reply, Exception):
            return reply
        return convert(reply, **{name: options[name] for name in options if name != "keys"})


class _Answered:
    """Stands in for redis-py's connection where a reply is to be read that has come already."""

    __slots__ = ("_reply",)

    def __init__(self, reply: Any) -> None:
        self._reply = reply

    def read_response(self, *_: Any, **__: Any) -> Any:
        if isinstance(self._reply, redis.ResponseError):
            raise self._reply
        return self._reply


def shared(
    hub: Hub,
    options: dict[str, Any],
    make: Callable[..., MultiplexedRedis] = MultiplexedRedis,
    variant: str = "",
    given: Mapping[str, Any] | None = None,
) -> MultiplexedRedis:
    """Return the client of this process for one server, database and login.

    Args:
        hub: The hub of this process.
        options: What :class:`redis.ConnectionPool` takes. Its connections are closed when the
            last user of the client is gone.
        make: Makes the client.
        variant: Tells clients apart that are made differently.
        given: What the user gave for some of the options, where ``options`` has an object that is
            made from it each time. It is this that tells clients apart.
    """
    told_apart = {**options, **(given or {})}
    key = hub.name, variant, _identity(told_apart)
    clients = runtime.current().clients
    client: MultiplexedRedis | None = clients.get(key)
    if client is None:
        pool = redis.ConnectionPool(**options)
        client = clients[key] = make(hub=hub, connection_pool=pool)
        client._told_apart = told_apart  # identities last as long as what has them
        weakref.finalize(client, pool.disconnect)
    return client


def _identity(value: Any) -> Hashable:
    """Return what is equal for options that are the same: by value where they have one."""
    if isinstance(value, Mapping):
        return frozenset((name, _identity(item)) for name, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value), tuple(_identity(item) for item in value)
    if value is None or isinstance(value, (str, bytes, int, float)):
        return type(value), value  # 1 and True are different options
    return id(value)


def _renew_with(provider: Any, pool: Any, session: Session) -> None:
    """Have the session authenticate anew when ``provider`` has a new token."""
    on_next = getattr(provider, "on_next", None)  # that of a StreamingCredentialProvider
    if on_next is None:
        return
    lines = weakref.ref(session)
    pools = weakref.ref(pool)

    def renew(token: Any) -> None:
        pool, session = pools(), lines()
        if pool is not None:
            pool.re_auth_callback(token)  # what redis-py has its provider call
        if session is not None:
            session.authenticate(token.try_get("oid"), token.get_value())

    on_next(renew)
