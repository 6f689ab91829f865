"""Putting many messages back into their queues at once.

kombu does it in a transaction each, with four round trips. A worker that holds a hundred thousand
waiting tasks would need minutes for that when it ends, and nobody gives it minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

# Whoever removes the record of a message puts the message back, so that it is put back once even
# if another worker does the same at this moment.
_RESTORE = """
local at, restored = 1, 0
while at <= #ARGV do
  local tag, count = ARGV[at], tonumber(ARGV[at + 1])
  local is_ours = redis.call('HDEL', KEYS[1], tag) == 1
  redis.call('ZREM', KEYS[2], tag)
  for place = at + 2, at + 2 * count, 2 do
    if is_ours then
      redis.call('RPUSH', KEYS[tonumber(ARGV[place])], ARGV[place + 1])
    end
  end
  if is_ours then restored = restored + 1 end
  at = at + 2 + 2 * count
end
return restored
"""

#: Messages put back at once. The server does nothing else meanwhile.
AT_ONCE = 200


class _Pushes:
    """Takes what kombu would push, in place of a pipeline."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, Any]] = []

    def rpush(self, queue: str, text: Any) -> None:
        self.pushed.append((queue, text))


def restore(channel: Any, client: Any, tags: Sequence[str]) -> int:
    """Put unacknowledged messages back where kombu would put them; return how many there were.

    Args:
        channel: The channel that received them.
        client: A client of its Redis.
        tags: Their delivery tags, :data:`AT_ONCE` at most.

    Raises:
        redis.RedisError: Redis refuses the script, or the connection failed.
    """
    prefix = channel.global_keyprefix
    keys = [prefix + channel.unacked_key, prefix + channel.unacked_index_key]
    arguments: list[Any] = []
    # kombu's client puts the prefix before the keys of neither of these two commands.
    for tag, record in zip(tags, client.execute_command("HMGET", keys[0], *tags)):
        if not record:
            continue  # somebody has acknowledged it or put it back
        pushes = _Pushes()
        message, exchange, routing_key = loads(bytes_to_str(record))
        channel._do_restore_message(message, exchange, routing_key, pushes)
        if not pushes.pushed:
            continue  # kombu has said why
        arguments += (tag, len(pushes.pushed))
        for queue, text in pushes.pushed:
            key = prefix + queue
            if key not in keys:
                keys.append(key)
            arguments += (keys.index(key) + 1, text)
    if not arguments:
        return 0
    return int(client.execute_command("EVAL", _RESTORE, len(keys), *keys, *arguments))
