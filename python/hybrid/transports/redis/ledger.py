"""The ledger of messages in flight, kept in Redis as kombu keeps it.

All that touches ``unacked`` and ``unacked_index`` is here, and in the scripts beside this file. The
hash has a record for each message that somebody has taken and nobody has acknowledged, by its
delivery tag; the sorted set has the time from which its visibility timeout counts. Both are kombu's
to the byte, so that stock workers put back what ours leave behind, and the other way round.

Taking: kombu takes one message with ``BRPOP`` and writes it to ``unacked`` after that: a worker
killed between the two has lost it. The script does both for many messages in one step, in kombu's
order and format. It records before it removes: whatever fails in it, the messages are in their
queues still.

What is taken comes with the answer of the script, which may be lost with its connection: then the
messages are recorded as taken, and nobody has them. So each call of the script passes a score of
its own, and by that the worker finds what it does not know, and puts it back. It goes to the front
of its queue; among themselves, messages of one call are in no order then, for Redis sorts what has
one score by its name.

A message goes back where its exchange and routing key lead, not to the list that it was taken from:
the record has no place for a list. An empty exchange with the queue for its routing key would name
one, to kombu as well. But where a topic exchange has copied a message into several queues the
copies have one tag, so the record of one is overwritten by the next and removed by whoever
acknowledges first, whatever it says; only a tag for each copy would mend that, and tags are the
publisher's.

Putting back: kombu does it in a transaction each, with four round trips. A worker that holds a
hundred thousand waiting tasks would need minutes for that when it ends, and nobody gives it
minutes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, time
from typing import Any, NamedTuple

from kombu.log import get_logger
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis import exceptions
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from hybrid.clients.redis.client import MultiplexedRedis

logger = get_logger("kombu.transport.redis")

_POP = Path(__file__).with_name("pop.lua").read_text("utf-8")
_RESTORE = Path(__file__).with_name("restore.lua").read_text("utf-8")

#: Messages taken at once, at most: what the script passes to one command has to fit Lua's stack.
LIMIT = 256
#: Bytes taken at once, roughly: the script holds several copies of them, and blocks the server.
BYTES = 2**20


#: Codes of what a server refuses for a while. Before version 7, what fails in a script has its code
#: in the middle of the text.
_PASSING = re.compile(
    r"(?:^|-)(?:BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN|"
    r"WRONGTYPE)\b"
)
#: Of these redis-py takes the code away, of the first one since its version 4.6.
_PASSING_CLASSES = (getattr(exceptions, "OutOfMemoryError", ReadOnlyError), ReadOnlyError)


def passes(exc: ResponseError) -> bool:
    """Tell whether what the server has refused may be granted later, without a new worker."""
    return isinstance(exc, _PASSING_CLASSES) or bool(_PASSING.search(str(exc)))


class Popped(NamedTuple):
    """One entry that has been taken from a list."""

    #: The index of its queue.
    queue: int
    #: The delivery tag under which it is in ``unacked``; ``None`` for what is no message.
    tag: str | None
    #: The entry itself.
    entry: bytes


class Popper:
    """Takes messages from the lists of queues, and records them as unacknowledged."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._script = client.register_script(_POP)
        self._size = 1  # bytes per message, last time
        #: Keys that were no lists when last looked at, each with its type in Redis.
        self.misfits: dict[str, str] = {}

    def pop(
        self,
        unacked: Sequence[str],
        lists: Sequence[str],
        width: int,
        *,
        now: float,
        limit: int,
        fair: bool,
    ) -> list[Popped]:
        """Take up to ``limit`` messages, :data:`LIMIT` at most, and fewer of large ones.

        Keys that are no lists are left out, and named in :attr:`misfits`.

        Args:
            unacked: The names of the hash and of the sorted set with the messages in flight.
            lists: The lists to take from: those of all queues for the first priority, then for
                the next.
            width: The number of queues.
            now: Seconds since the epoch, from which the visibility timeout counts. No other
                call has the same: see :func:`unique_time`.
            limit: How many messages are wanted.
            fair: Whether queues take turns, or the first goes before the second.

        Raises:
            redis.RedisError: The script is refused, and has taken nothing; or the connection
                failed.
        """
        limit = min(limit, LIMIT, max(BYTES // self._size, 1))
        try:
            seen, misfits, reply = self._take([*unacked, *lists], [now, limit, width, int(fair)])
        except ResponseError:
            raise
        except BaseException:
            # The connection was lost, or whoever waits here is ended: the server may have done it.
            unanswered.append(Unanswered(self.client, (unacked[0], unacked[1]), now))
            raise
        if misfits or self.misfits:
            found = iter(misfits)
            unseen = set(lists[seen:])
            self.misfits = {key: kind for key, kind in self.misfits.items() if key in unseen}
            self.misfits.update((lists[place], kind.decode()) for place, kind in zip(found, found))
        if not reply:
            return []
        parts = iter(reply)
        popped = [
            Popped(queue, None if tag is None else tag.decode(), entry)
            for queue, tag, entry in zip(parts, parts, parts)
        ]
        self._size = max(sum(map(len, reply[2::3])) // len(popped), 1)
        return popped

    def _take(self, keys: list[str], args: list[Any]) -> Any:
        client = self.client
        if isinstance(client, MultiplexedRedis) and client.hub.can_park():
            with suppress(NoScriptError):
                return client.call("EVALSHA", self._script.sha, len(keys), *keys, *args)
        return self._script(keys=keys, args=args, client=client)


#: Seconds, after a call of the script that was not answered, at which the worker looks for what it
#: has taken. Not once, for what was on its way may still reach the server.
LOOKS = (0.0, 2.0, 10.0, 30.0)

_last_time = 0.0


def unique_time() -> float:
    """Return the time of now, in seconds since the epoch, as no other call in this process does."""
    global _last_time
    _last_time = max(time(), math.nextafter(_last_time, math.inf))
    return _last_time


class Unanswered:
    """A call of the script whose answer did not come."""

    def __init__(self, client: Any, unacked: tuple[str, str], score: float) -> None:
        #: Kept for the next channel of this server, which gets the same one.
        self.client = client
        self.unacked = unacked
        self.score = score
        self._asked_at = monotonic()
        self._looks = 0

    def is_due(self) -> bool:
        """Tell whether it is time to look for what it has taken."""
        return monotonic() - self._asked_at >= LOOKS[self._looks]

    def look(self, channel: Any) -> int:
        """Put back what it has taken, and return how many messages there were.

        Raises:
            redis.ConnectionError: That is not known; what has been put back is so once.
        """
        restored = 0
        try:
            restored = self._restore(channel)
        except ResponseError as exc:
            logger.error("Cannot look for messages that were taken without an answer: %r", exc)
        if restored:
            logger.warning(
                "Put %d messages back: Redis had them recorded in %s as taken, and its answer was "
                "lost with the connection",
                restored,
                self.unacked[0],
            )
        self._looks += 1
        if self._looks == len(LOOKS):
            unanswered.remove(self)
        return restored

    def _restore(self, channel: Any) -> int:
        tags = self.client.execute_command("ZRANGEBYSCORE", self.unacked[1], self.score, self.score)
        held = channel.qos._delivered
        lost = [tag for tag in map(bytes_to_str, tags) if tag not in held]
        return sum(
            restore(channel, self.client, lost[first : first + AT_ONCE])
            for first in range(0, len(lost), AT_ONCE)
        )


#: Calls of the script whose answers did not come.
unanswered: list[Unanswered] = []


def restore_unanswered(channel: Any, client: Any, at_once: bool = False) -> None:
    """Put back what has been taken by calls of the script whose answers did not come.

    Args:
        channel: A channel that consumes.
        client: The client of its Redis that takes messages.
        at_once: Whether to look now, and not when it is time.

    Raises:
        redis.ConnectionError: The connection failed; it is tried again.
    """
    if unanswered:
        for call in [call for call in unanswered if call.client is client]:
            if at_once or call.is_due():
                call.look(channel)


#: Messages put back at once. The server does nothing else meanwhile.
AT_ONCE = 200


class _Pushes:
    """Takes what kombu would push, in place of a pipeline."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, Any]] = []

    def rpush(self, queue: str, text: Any) -> None:
        self.pushed.append((queue, text))

    lpush = rpush


def restore(channel: Any, client: Any, tags: Sequence[str], leftmost: bool = False) -> int:
    """Put unacknowledged messages back where kombu would put them; return how many there were.

    What cannot be put back, because its queue is no list in Redis, stays recorded, which is logged.

    Args:
        channel: The channel that received them.
        client: A client of its Redis.
        tags: Their delivery tags, :data:`AT_ONCE` at most.
        leftmost: Whether all that is in their queues goes before them.

    Raises:
        redis.RedisError: Redis refuses the script, or the connection failed. Of each message, it
            has either all or nothing done.
    """
    prefix = channel.global_keyprefix
    keys = [prefix + channel.unacked_key, prefix + channel.unacked_index_key]
    arguments: list[Any] = ["LPUSH" if leftmost else "RPUSH"]
    # kombu's client puts the prefix before the keys of neither of these two commands.
    for tag, record in zip(tags, client.execute_command("HMGET", keys[0], *tags)):
        if not record:
            arguments += (tag, 0)  # somebody has acknowledged it or put it back
            continue
        pushes = _Pushes()
        message, exchange, routing_key = loads(bytes_to_str(record))
        channel._do_restore_message(message, exchange, routing_key, pushes, leftmost)
        if not pushes.pushed:
            continue  # kombu has said why
        arguments += (tag, len(pushes.pushed))
        for queue, text in pushes.pushed:
            key = prefix + queue
            if key not in keys:
                keys.append(key)
            arguments += (keys.index(key) + 1, text)
    if len(arguments) == 1:
        return 0
    restored, misfits = client.execute_command("EVAL", _RESTORE, len(keys), *keys, *arguments)
    found = iter(misfits)
    _report({bytes_to_str(key): bytes_to_str(kind) for key, kind in zip(found, found)}, keys)
    return int(restored)


#: Keys that messages could not be put back into, each with its type, as it has been logged.
_reported: dict[str, str] = {}


def _report(misfits: dict[str, str], keys: list[str]) -> None:
    for key in keys[2:]:
        kind = misfits.get(key)
        if kind is None:
            _reported.pop(key, None)
        elif _reported.get(key) != kind:
            _reported[key] = kind
            logger.error(
                "Messages of the key %r cannot be put back, because it is a %s in Redis, not a "
                "list. They stay in %s: rename or delete the key, and they are put back when the "
                "visibility timeout has passed",
                key,
                kind,
                keys[0],
            )
