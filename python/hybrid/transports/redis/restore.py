"""Putting many messages back into their queues at once.

kombu does it in a transaction each, with four round trips. A worker that holds a hundred thousand
waiting tasks would need minutes for that when it ends, and nobody gives it minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kombu.log import get_logger
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

logger = get_logger("kombu.transport.redis")

# Whoever finds the record of a message puts the message back, so that it is put back once even if
# another worker does the same at this moment. The record is removed when the message is in its
# queues. Where one of these is of another type, message and record stay as they are.
_RESTORE = """
local misfits, restored = {}, 0
-- A full server refuses what takes memory, unless the script has begun to write. This removes
-- nothing.
redis.call('ZREMRANGEBYRANK', KEYS[2], 1, 0)
local kinds = {}
for number = 3, #KEYS do
  local kind = redis.call('TYPE', KEYS[number]).ok
  if kind ~= 'list' and kind ~= 'none' then
    kinds[number] = kind
    misfits[#misfits + 1] = KEYS[number]
    misfits[#misfits + 1] = kind
  end
end
local at = 2
while at <= #ARGV do
  local tag, count = ARGV[at], tonumber(ARGV[at + 1])
  local is_recorded = redis.call('HEXISTS', KEYS[1], tag) == 1
  local fits = true
  for place = at + 2, at + 2 * count, 2 do
    if kinds[tonumber(ARGV[place])] then
      fits = false
    end
  end
  if not is_recorded then
    redis.call('ZREM', KEYS[2], tag)
  elseif fits and count > 0 then
    for place = at + 2, at + 2 * count, 2 do
      redis.call(ARGV[1], KEYS[tonumber(ARGV[place])], ARGV[place + 1])
    end
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    restored = restored + 1
  end
  at = at + 2 + 2 * count
end
return {restored, misfits}
"""

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
