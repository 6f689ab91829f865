"""The record of the messages in flight, kept in Redis as kombu keeps it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property, partial
from typing import Any, Callable

from kombu.log import get_logger
from kombu.transport import redis, virtual
from redis.exceptions import ResponseError

from hybrid import hubs
from hybrid.clients.redis import Command, MultiplexedRedis
from hybrid.encoding import dumps
from hybrid.hubs.gather import Gather
from hybrid.transports.redis.ledger import AT_ONCE, LIMIT, passes, restore, unique_time

logger = get_logger("kombu.transport.redis")

#: Tags in one command.
TAGS = 1000


class QoS(redis.QoS):  # type: ignore[misc]
    """kombu's record of the messages in flight, written for many messages at a time.

    For processes that a pool of ours runs in.
    """

    def __init__(self, channel: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(channel, *args, **kwargs)
        hub = hubs.running()
        if hub is None:
            raise RuntimeError("no pool of ours runs in this process")
        #: Says how many more messages may be taken, where that is not a matter of prefetch alone.
        self.room: Callable[[], int] | None = None
        #: Says which messages jobs hold that go on although the connection is lost.
        self.held_by_jobs: Callable[[], Collection[str]] | None = None
        #: Those, when this connection was lost; and the record of the next one, which has them.
        self._kept: set[str] = set()
        self._successor: QoS | None = None
        self._recorded: set[str] = set()
        # kombu marks what is settled and forgets it at the next message, for the sake of threads.
        self._quick_ack = self._forget
        self._hub = hub
        #: Messages that are settled, to be removed from Redis together at the end of this turn.
        self._settled: list[str] = []
        self._restores: Gather[tuple[str, bool]] = Gather(hub, self._restore_many)

    def capacity(self) -> int:
        """Return how many messages may be taken now."""
        if not self.can_consume():
            return 0
        limit = LIMIT
        by_prefetch: int | None = self.can_consume_max_estimate()
        if by_prefetch is not None:
            limit = min(limit, by_prefetch)
        return limit if self.room is None else min(limit, self.room())

    def expect(self, delivery_tag: str) -> None:
        """Take note that Redis has the record of a message that :meth:`append` will be told of."""
        self._recorded.add(delivery_tag)

    def still_expects(self, delivery_tag: str | None) -> bool:
        """Tell whether a message that was expected has not come."""
        return delivery_tag in self._recorded

    def append(self, message: Any, delivery_tag: str) -> None:
        """Record a message as unacknowledged."""
        if delivery_tag in self._recorded:
            self._recorded.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
            return
        client = self._client()
        if client is None:
            super().append(message, delivery_tag)
            return
        # It is out of its queue already. The record goes ahead of the acknowledgement that a task
        # starts with, in the same write.
        unacked, index = self._keys
        commands: list[Command] = [
            (("ZADD", index, unique_time(), delivery_tag), {}),
            (("HSET", unacked, delivery_tag, _record(message)), {}),
        ]
        client.show(commands, partial(client.post, commands))
        virtual.QoS.append(self, message, delivery_tag)

    def forget_message(self, delivery_tag: str) -> None:
        """Keep the tag of a message in flight, and nothing else of it.

        Redis has the message. Here, only tags are ever read, also to restore messages.
        """
        if delivery_tag in self._delivered:
            self._delivered[delivery_tag] = None

    def _forget(self, delivery_tag: str) -> None:
        self._delivered.pop(delivery_tag, None)
        self._kept.discard(delivery_tag)
        if self._successor is not None:
            self._successor._forget(delivery_tag)

    def succeed(self, before: QoS) -> None:
        """Take over the messages that are left from the connection ``before`` this one.

        A delivery belongs to the worker and not to a connection. What jobs hold is acknowledged
        where it came from, counts as in flight here, and goes back with the others from here. The
        rest goes back now: Redis was away as the connection was lost, or a job has failed since.

        Raises:
            redis.RedisError: It could not, and is still in flight.
        """
        left = [*before._delivered, *before._kept]
        self._delivered.update(dict.fromkeys(left))
        before._delivered.clear()
        before._kept.clear()
        before._successor = self
        held = self.held_by_jobs() if self.held_by_jobs is not None else ()
        self._put_back([tag for tag in left if tag not in held])

    def unrecord(self, delivery_tag: str) -> None:
        """Remove the record of what turned out to be no message."""
        self._recorded.discard(delivery_tag)
        self._remove(delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge one message, at the end of this turn.

        Does not wait for it: if the connection is lost it is sent again over the next one.
        """
        self._remove(delivery_tag)
        self._quick_ack(delivery_tag)

    def ack_many(self, delivery_tags: list[str]) -> None:
        """Acknowledge messages, and return when that has been sent.

        Raises:
            redis.RedisError: It was not.
        """
        if delivery_tags:
            client = self._client()
            if client is not None and self._hub.can_park():
                # Once this is sent it reaches the server whatever becomes of this process.
                client.send(self._removal(delivery_tags))
            else:
                with self.pipe_or_acquire() as pipe:
                    pipe.zrem(self.unacked_index_key, *delivery_tags)
                    pipe.hdel(self.unacked_key, *delivery_tags).execute()
            for tag in delivery_tags:
                self._quick_ack(tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject one message."""
        if requeue:
            self.restore_by_tag(delivery_tag, leftmost=True)
        else:
            self._remove(delivery_tag)
        self._quick_ack(delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put one message back into its queue."""
        if client is None and self._hub.can_park():
            self._restores.submit((tag, leftmost))
        else:
            self._restore_one(tag, client, leftmost)

    def _restore_one(self, tag: str, client: Any, leftmost: bool) -> None:
        # kombu's transaction removes the record even where the message cannot be put back.
        try:
            with self.channel.conn_or_acquire(client) as connected:
                restore(self.channel, connected, [tag], leftmost)
        except ResponseError as exc:
            if passes(exc):
                raise
            super().restore_by_tag(tag, client, leftmost)
        except ValueError:  # a record that nobody can read
            super().restore_by_tag(tag, client, leftmost)

    def restore_unacked(self, client: Any = None) -> None:
        """Put all messages in flight back into their queues, but for those that jobs go on with."""
        if self.held_by_jobs is not None:
            self._kept = {tag for tag in self.held_by_jobs() if tag in self._delivered}
            for tag in self._kept:
                del self._delivered[tag]
        self._put_back(list(self._delivered), client)
        self._delivered.clear()

    def _put_back(self, tags: list[str], client: Any = None) -> None:
        if not tags:
            return
        try:
            with self.channel.conn_or_acquire(client) as connected:
                for first in range(0, len(tags), AT_ONCE):
                    some = tags[first : first + AT_ONCE]
                    restore(self.channel, connected, some)
                    for tag in some:
                        self._delivered.pop(tag, None)
        except (ResponseError, ValueError) as exc:
            # No scripts for this user, or a record that nobody can read.
            logger.warning("Putting messages back one by one, because of %r", exc)
            for tag in tags:
                if tag in self._delivered:
                    self._restore_one(tag, client, leftmost=False)
                    self._delivered.pop(tag, None)

    def flush(self) -> None:
        """Send the acknowledgements of this turn now, before the process ends, say."""
        client = self._client()
        if client is not None:
            client.flush()

    def _client(self) -> MultiplexedRedis | None:
        """Return the client that all greenlets share, where it may be used."""
        client = self.channel._create_client()
        if isinstance(client, MultiplexedRedis) and self._hub.in_thread():
            return client
        return None

    @cached_property
    def _keys(self) -> tuple[str, str]:
        prefix = self.channel.global_keyprefix
        return prefix + self.unacked_key, prefix + self.unacked_index_key

    def _remove(self, delivery_tag: str) -> None:
        client = self._client()
        if client is None:
            self._remove_from_indices(delivery_tag).execute()
            return
        client.show(self._removal([delivery_tag]), partial(self._settle, client, delivery_tag))

    def _settle(self, client: MultiplexedRedis, delivery_tag: str) -> None:
        self._settled.append(delivery_tag)
        if len(self._settled) == 1:
            client.collect(partial(self._remove_settled, client))

    def _remove_settled(self, client: MultiplexedRedis) -> None:
        settled, self._settled = self._settled, []
        for first in range(0, len(settled), TAGS):
            client.post(self._removal(settled[first : first + TAGS]))

    def _removal(self, tags: list[str]) -> list[Command]:
        unacked, index = self._keys
        return [(("ZREM", index, *tags), {}), (("HDEL", unacked, *tags), {})]

    def _restore_many(self, orders: list[tuple[str, bool]]) -> Sequence[Any]:
        # One after another: each watches the record in a transaction on a connection of its own.
        outcomes: list[Any] = []
        client = self._client()
        if client is not None:
            client.call("PING")  # their records may have been posted just now
        for tag, leftmost in orders:
            try:
                self._restore_one(tag, None, leftmost)
                outcomes.append(None)
            except Exception as exc:
                outcomes.append(exc)
        return outcomes


def _record(message: Any) -> Any:
    """Return what ``unacked`` holds for a message; its envelope as it came, where that is known."""
    address = [message.delivery_info["exchange"], message.delivery_info["routing_key"]]
    delivery = getattr(message, "_delivery", None)
    if delivery is None:
        return dumps([message._raw, *address])
    envelope = delivery.raw
    if type(envelope) is str:
        envelope = envelope.encode()
    return b"[%b, %b" % (envelope, dumps(address)[1:].encode())
