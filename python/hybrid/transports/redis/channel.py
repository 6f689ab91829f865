"""kombu's Redis transport, taking and settling many messages per round trip.

While there are messages, they are taken many at a time by a script; ``BRPOP``, kombu's way, waits
for one when there are none. Acknowledgements and whatever else greenlets want of Redis are
gathered on one connection. Messages are decoded in Rust. Keys, formats and options are kombu's.

What lies in a Redis list may be anything. kombu raises out of its poll loop for what is not an
envelope, which ends the worker, after it has taken the entry from the list. Here such an entry is
logged and dropped, and costs nobody else anything.
"""

from __future__ import annotations

from functools import partial
from queue import Empty
from types import FunctionType
from typing import Any, Callable

from amqp.protocol import queue_declare_ok_t
from kombu.log import get_logger
from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.scheduling import priority_cycle, round_robin_cycle, sorted_cycle
from redis import Redis
from redis.commands.core import ListCommands
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from hybrid import hubs
from hybrid._rust import encode_base64
from hybrid.clients.redis import MultiplexedPipeline, MultiplexedRedis, shared
from hybrid.detours import TRANSPORT
from hybrid.encoding import dumps
from hybrid.hubs.base import Hub
from hybrid.identifiers import uuid4
from hybrid.patches.originals import Originals
from hybrid.transports.message import Message, OurMessage, decode_envelope
from hybrid.transports.redis.ledger import (
    Popped,
    Popper,
    passes,
    restore_unanswered,
    unique_time,
)
from hybrid.transports.redis.prefixed import PrefixedRedis, literal
from hybrid.transports.redis.qos import QoS

logger = get_logger("kombu.transport.redis")

#: Seconds after which a server is asked again that has refused for a reason that passes.
REFUSED_WAIT = 1.0

#: What our way of putting a message into its list leaves out.
_PUTTING = Originals((redis.Channel, "_put"), (ListCommands, "lpush", Redis))

#: What encoding a body in Rust leaves out.
_ENCODING = Originals((virtual.base.Channel, "encode_body"), (virtual.base.Base64, "encode"))

#: What kombu raises for an entry that is not an envelope, or not one of its own.
_UNREADABLE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)


def _rebound(function: Callable[..., Any], **names: Any) -> Any:
    """Return kombu's ``function`` with other values for some of its module's globals.

    kombu decodes in the middle of methods that do much more, by calling a global of its module.
    A copy of such a method would miss what the next release adds to it, and a patch of the
    global would reach every other user of the module. What somebody has put around the method
    stays around it.
    """
    if type(function) is not FunctionType or hasattr(function, "__wrapped__"):
        return function
    rebound = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    rebound.__kwdefaults__ = function.__kwdefaults__
    rebound.__doc__ = function.__doc__
    return rebound


def _drop(entry: Any, exc: BaseException) -> None:
    logger.critical(
        "Dropped an entry of a queue that is no message (%s: %s): %.500r",
        type(exc).__name__,
        exc,
        entry,
    )


def _decode_or_drop(data: Any) -> Any:
    try:
        return decode_envelope(data)
    except _UNREADABLE as exc:
        _drop(data, exc)
        # What the callers take for a queue without a message.
        raise Empty from None


class _NotAMessageError(Exception):
    """An envelope has been decoded, and no message can be made of it."""


class _Message(Message):
    """A message that is logged when it turns out to be none."""

    __slots__ = ()

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            super().__init__(payload, channel, **kwargs)
            # What kombu needs to keep track of it until it is acknowledged.
            self.delivery_info["exchange"], self.delivery_info["routing_key"]
            if type(self.delivery_tag) is not str:
                raise TypeError(f"delivery_tag must be a string, not {self.delivery_tag!r}")
        except _UNREADABLE as exc:
            _drop(getattr(payload, "raw", payload), exc)
            raise _NotAMessageError from None


class Channel(redis.Channel):  # type: ignore[misc]
    """kombu's channel: keys, bindings, publish/subscribe and options are its own."""

    Message = _Message
    QoS = QoS

    _read_brpop = _rebound(redis.Channel._brpop_read, loads=_decode_or_drop)
    _get = _rebound(redis.Channel._get, loads=_decode_or_drop)
    _put_alone = _rebound(redis.Channel._put, dumps=dumps)
    _put_fanout = _rebound(redis.Channel._put_fanout, dumps=dumps)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._multiplexed: MultiplexedRedis | None = None
        self._popper: Popper | None = None
        #: Why messages are taken one by one; ``None`` where nobody wants more.
        self.declined: str | None = None
        self._without_ack: set[str] = set()
        #: How many answers to the script were lost in a row.
        self._lost_answers = 0
        #: Keys of queues that are no lists in Redis, each with its queue and its type.
        self._misfits: dict[str, tuple[str, str]] = {}
        #: kombu's order of the queues.
        self._queue_cycle: Any
        #: Why Redis refuses for now to give messages.
        self._refusal: str | None = None
        if not _has_kombus_body_codec(self):
            # Such a codec has to see the body as it came, so kombu decodes here.
            self._read_brpop = super()._brpop_read
            self._get = super()._get
        if hubs.running() is None:
            self.QoS = redis.QoS  # nobody here has anything to gather
        # kombu's constructor pings the server on a connection that only consumers need.
        self.__dict__["client"] = _Pinger(self)
        try:
            super().__init__(*args, **kwargs)
        finally:
            self.__dict__.pop("client", None)

    def _create_client(self, asynchronous: bool = False) -> Any:
        hub = hubs.running()
        if asynchronous or hub is None:
            return super()._create_client(asynchronous)
        if self._multiplexed is None:
            self.pool  # noqa: B018  kombu completes `keyprefix_fanout` when it makes the pool
            make = (
                partial(_PrefixedClient, self.global_keyprefix)
                if self.global_keyprefix
                else MultiplexedRedis
            )
            self._multiplexed = self._shared(hub, make, self.global_keyprefix)
        return self._multiplexed

    def _get_client(self) -> Any:
        client = super()._get_client()
        if self.global_keyprefix:
            return partial(PrefixedRedis, global_keyprefix=self.global_keyprefix)
        return client

    def _get_subscribe_topic(self, queue: str) -> str:
        exchange, _ = self._fanout_queues[queue]
        name = self._get_publish_topic(exchange, "")
        topic: str = super()._get_subscribe_topic(queue)
        return literal(name) + topic[len(name) :]  # a pattern begins with the routing key

    def _get_subscribe_topics(self, queue: str) -> list[str]:
        return [self._get_subscribe_topic(queue)]

    def _shared(
        self,
        hub: Hub,
        make: Callable[..., MultiplexedRedis] = MultiplexedRedis,
        variant: str = "",
    ) -> MultiplexedRedis:
        # kombu makes a credential provider from its name, another one for each channel. It has them
        # since 5.6.
        provider = getattr(self.connection.client, "credential_provider", None)
        given = {"credential_provider": provider}
        return shared(hub, self._connparams(), make, variant, given)

    def close(self) -> None:
        """Close the channel; what it has acknowledged is sent first."""
        qos = self._qos
        if type(qos) is QoS:
            qos.flush()
            try:
                self.restore_unanswered(at_once=True)
            except Exception as exc:
                logger.warning("Cannot look for messages whose takers had no answer: %r", exc)
        super().close()

    def queue_declare(self, queue: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Declare ``queue``. The worker starts without one whose key is no list, and says so."""
        try:
            return super().queue_declare(queue, *args, **kwargs)
        except ResponseError as exc:
            if queue is None or hubs.running() is None or "WRONGTYPE" not in str(exc):
                raise
            # All is done; kombu only counts the messages yet.
            return queue_declare_ok_t(queue, 0, 0)

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **kwargs: Any) -> Any:
        """Consume from ``queue``; entries that are no messages are dropped."""
        consumed = super().basic_consume(queue, no_ack, *args, **kwargs)
        if no_ack:
            self._without_ack.add(queue)
        callbacks = self.connection._callbacks
        deliver = callbacks[queue]

        def deliver_messages(entry: Any) -> Any:
            try:
                return deliver(entry)
            except _NotAMessageError:
                return None

        callbacks[queue] = deliver_messages
        return consumed

    def basic_get(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        """Get one message; ``None`` when the next entry of the queue is none."""
        try:
            return super().basic_get(queue, *args, **kwargs)
        except _NotAMessageError:
            return None

    def ack_together(self, messages: list[OurMessage]) -> list[bool]:
        """Acknowledge messages in one write, and tell which of them that was possible for.

        The others are as they were. Blocks until the write is done.
        """
        qos = self.qos
        if type(qos) is not QoS or self.no_ack_consumers:
            return [False] * len(messages)
        acknowledged = []
        ours: list[OurMessage] = []
        tags: list[str] = []
        for message in messages:
            can = message._state == "RECEIVED"
            acknowledged.append(can)
            if can:
                ours.append(message)
                tags.append(message.delivery_tag)
        try:
            qos.ack_many(tags)
        except Exception:
            return [False] * len(messages)
        for message in ours:
            message._state = "ACK"
        return acknowledged

    def encode_body(self, body: Any, encoding: str | None = None) -> Any:
        """Return the body as it travels, and the encoding."""
        if encoding == "base64" and _has_kombus_codec(self) and _ENCODING.are_intact():
            encoded = encode_base64(body)
            if encoded is not None:
                return encoded, encoding
        return super().encode_body(body, encoding)

    def _next_delivery_tag(self) -> str:
        return uuid4()

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        if not _PUTTING.are_intact():
            TRANSPORT.note("; ".join(_PUTTING.explain()))
            super()._put(queue, message, **kwargs)
            return
        client = self._create_client()
        if (
            not isinstance(client, MultiplexedRedis)
            or kwargs.get("_publish_batch") is not None
            or queue in (getattr(self, "_expires", None) or ())
            or not client.hub.can_park()
        ):
            self._put_alone(queue, message, **kwargs)
            return
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        client.call("LPUSH", self.global_keyprefix + key, dumps(message))

    # -- taking many messages

    def pop_many(self) -> bool:
        """Take messages and deliver them; tell whether there were any.

        Raises:
            redis.RedisError: The connection failed, and that not for the first time.
        """
        if self._in_poll or self._popper is None:
            return False
        limit = self.qos.capacity()
        if limit <= 0:
            return False
        cycle: Any = self._queue_cycle
        queues = cycle.consume(len(self.active_queues))
        if not queues:
            return False
        prefix = self.global_keyprefix
        lists = self._lists(queues)
        try:
            popped = self._popper.pop(
                (prefix + self.unacked_key, prefix + self.unacked_index_key),
                lists,
                len(queues),
                now=unique_time(),
                limit=limit,
                fair=type(cycle) is round_robin_cycle,
            )
        except ResponseError as exc:
            if passes(exc):
                self._refuse(exc)
            else:
                self._popper = None
                self.declined = f"Redis refuses the script: {exc}"
                logger.warning("Taking messages one by one, because %s", self.declined)
            return False
        except (RedisConnectionError, RedisTimeoutError):
            # What was taken is put back by `restore_unanswered`. The messages that this worker has
            # stay its own, so there is nothing to begin anew with, unless it happens again.
            self._lost_answers += 1
            if self._lost_answers > 1:
                raise
            return False
        self._refusal, self._lost_answers = None, 0
        if self._popper.misfits or self._misfits:
            self._leave_out(
                {
                    key: (queues[lists.index(key) % len(queues)], kind)
                    for key, kind in self._popper.misfits.items()
                }
            )
        if not popped:
            return False
        for index in sorted({entry.queue for entry in popped}):
            cycle.rotate(queues[index])
        self._deliver_all(queues, popped)
        return True

    def restore_unanswered(self, at_once: bool = False) -> None:
        """Put back what this worker has taken without getting it, if it is time to look.

        Raises:
            redis.RedisError: The connection failed.
        """
        popper = self._popper
        hub = hubs.running()
        if popper is None or hub is None or not hub.can_park():
            return
        if not at_once or popper.client.is_connected:
            restore_unanswered(self, popper.client, at_once)

    def _lists(self, queues: list[str]) -> list[str]:
        return [
            self.global_keyprefix + self._q_for_pri(queue, priority)
            for priority in self.priority_steps
            for queue in queues
        ]

    def _leave_out(self, misfits: dict[str, tuple[str, str]]) -> None:
        """Wait for no messages in queues with such keys, and say so once."""
        for key, (queue, kind) in misfits.items():
            if self._misfits.get(key) != (queue, kind):
                logger.error(
                    "The key %r of the queue %s is a %s in Redis, not a list: nothing is taken "
                    "from it, and other queues go on. Rename or delete it to have the queue back",
                    key,
                    queue,
                    kind,
                )
        self._misfits = misfits

    def _look_for_misfits(self) -> None:
        """Find the keys that ``BRPOP`` fails for."""
        queues = list(self.active_queues)
        lists = self._lists(queues)
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for key in lists:
                pipe.execute_command("TYPE", key)
            kinds = pipe.execute()
        self._leave_out(
            {
                key: (queues[place % len(queues)], kind)
                for place, (key, kind) in enumerate(zip(lists, map(bytes_to_str, kinds)))
                if kind not in ("list", "none")
            }
        )

    def _refuse(self, exc: ResponseError) -> None:
        """Take note that Redis gives no messages for now, and say so once."""
        if self._refusal != str(exc):
            self._refusal = str(exc)
            logger.error(
                "Redis gives no messages (%s). They stay in their queues, and the worker asks "
                "again until that has been set right",
                exc,
            )
        if isinstance(exc, ReadOnlyError):  # who is the master may be found out by connecting anew
            for client in {self._create_client(), getattr(self._popper, "client", None)} - {None}:
                client.renew()
            if not self._in_poll:
                self.client.connection_pool.disconnect(inuse_connections=False)

    def _brpop_start(self, *timeout: float | None) -> None:
        # Without one, kombu has its own, which is another default in each version.
        if self._refusal is not None and self._popper is not None:
            return  # nothing taken now could be recorded
        if self._misfits:
            self._look_for_misfits()
        cycle: Any = self._queue_cycle
        if self._misfits:
            self._queue_cycle = _CycleWithout(cycle, {queue for queue, _ in self._misfits.values()})
        try:
            super()._brpop_start(*timeout)
        finally:
            self._queue_cycle = cycle

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return self._read_brpop(**options)
        except ResponseError as exc:
            hub = hubs.running()
            if hub is None or not hub.can_park() or not passes(exc):
                raise
            if str(exc).startswith("WRONGTYPE"):
                self._look_for_misfits()
            else:
                self._refuse(exc)
                hub.sleep(REFUSED_WAIT)
            raise Empty from None

    def _deliver_all(self, queues: list[str], popped: list[Popped]) -> None:
        for number, entry in enumerate(popped):
            try:
                self._deliver_one(queues[entry.queue], entry)
            except BaseException:
                # Nobody else knows of the rest: it goes back to where it was.
                for left in reversed(popped[number + 1 :]):
                    if left.tag is not None:
                        self.qos.restore_by_tag(left.tag, leftmost=True)
                raise

    def _deliver_one(self, queue: str, entry: Popped) -> None:
        qos = self.qos
        if entry.tag is not None:
            qos.expect(entry.tag)
        try:
            envelope = _decode_or_drop(entry.entry)
        except Empty:
            pass
        else:
            self.connection._deliver(envelope, queue)
        if qos.still_expects(entry.tag):  # it was dropped, or has another tag than it seemed
            qos.unrecord(entry.tag)

    def explain(self) -> str | None:
        """Say why messages are taken or put one by one at the moment, if they are."""
        causes = (self.declined, *_PUTTING.explain())
        return "; ".join(filter(None, causes)) or None

    def start_popping(self) -> None:
        """From now on, take messages many at a time if that can be done.

        For the worker's own consumer: others may count on one message per call.
        """
        self._popper, self.declined = None, self._reason_not_to_pop()
        hub = hubs.running()
        if self.declined is None and hub is not None:
            self._popper = Popper(self._shared(hub))

    def _reason_not_to_pop(self) -> str | None:
        if hubs.running() is None:
            return "no pool of ours runs in this process"
        if not self.ack_emulation:
            return "the transport option ack_emulation is off"
        if self._without_ack & set(self.active_queues):
            return "a queue is consumed without acknowledgements"
        if type(self._queue_cycle) not in (round_robin_cycle, priority_cycle, sorted_cycle):
            return f"the queue_order_strategy {self.queue_order_strategy!r} is not kombu's"
        return None


class _CycleWithout:
    """The queues of one of kombu's cycles, without some."""

    def __init__(self, cycle: Any, without: set[str]) -> None:
        self._cycle = cycle
        self._without = without

    def consume(self, n: int) -> list[str]:
        return [queue for queue in self._cycle.consume(n) if queue not in self._without]


class _Pinger:
    """Stands in for a channel's own connection where kombu only wants to know that one works."""

    connection: Any = None

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def ping(self) -> Any:
        return self._channel._create_client().ping()


class _PrefixedPipeline(redis.GlobalKeyPrefixMixin, MultiplexedPipeline):  # type: ignore[misc]
    pass


class _PrefixedClient(redis.GlobalKeyPrefixMixin, MultiplexedRedis):  # type: ignore[misc]
    """Puts the transport option ``global_keyprefix`` before all keys, as kombu's client does."""

    def __init__(self, global_keyprefix: str, **options: Any) -> None:
        self.global_keyprefix = global_keyprefix
        super().__init__(**options)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        pipeline = _PrefixedPipeline(self, transaction, shard_hint)
        pipeline.global_keyprefix = self.global_keyprefix
        return pipeline


def _has_kombus_body_codec(channel: redis.Channel) -> bool:
    return type(channel).decode_body is virtual.Channel.decode_body and _has_kombus_codec(channel)


def _has_kombus_codec(channel: redis.Channel) -> bool:
    return type(channel.codecs.get("base64")) is virtual.base.Base64
