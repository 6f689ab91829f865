"""Taking many messages from Redis at once, none of which is ever in nobody's hands.

kombu takes one message with ``BRPOP`` and writes it to ``unacked`` after that: a worker killed
between the two has lost it. The script here does both for many messages in one step, in kombu's
order and format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

# What `unacked` holds for a message is `[envelope, exchange, routing key]`. All three are taken
# from the text of the envelope where kombu wrote it: decoding it here would block the server.
_POP = r"""
local unacked, index = KEYS[1], KEYS[2]
local now, wanted, width, fair = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local KOMBU = '"delivery_info": {"exchange": "([^"\\]*)", "routing_key": "([^"\\]*)"}, ' ..
  '"priority": %d+, "body_encoding": "base64", "delivery_tag": "([^"\\]+)"}}$'

local function address(item)
  local exchange, routing_key, tag = string.match(string.sub(item, -1024), KOMBU)
  if tag then
    return tag, '"' .. exchange .. '", "' .. routing_key .. '"'
  end
  local ok, message = pcall(cjson.decode, item)
  local properties = ok and type(message) == 'table' and message.properties
  local info = type(properties) == 'table' and properties.delivery_info
  if type(info) == 'table' and type(properties.delivery_tag) == 'string'
      and type(info.exchange) == 'string' and type(info.routing_key) == 'string' then
    return properties.delivery_tag,
      cjson.encode(info.exchange) .. ', ' .. cjson.encode(info.routing_key)
  end
end

local popped, scores, records, count = {}, {}, {}, 0
local function take(list, item)
  count = count + 1
  local tag, target = address(item)
  if tag then
    scores[#scores + 1] = now
    scores[#scores + 1] = tag
    records[#records + 1] = tag
    records[#records + 1] = '[' .. item .. ', ' .. target .. ']'
  end
  popped[#popped + 1] = list
  popped[#popped + 1] = tag or false
  popped[#popped + 1] = item
end

for first = 3, #KEYS, width do
  if width == 1 or not fair then
    for list = first, first + width - 1 do
      if count < wanted then
        for _, item in ipairs(redis.call('RPOP', KEYS[list], wanted - count) or {}) do
          take(list - first, item)
        end
      end
    end
  else
    local found = true
    while found and count < wanted do
      found = false
      for list = first, first + width - 1 do
        local item = count < wanted and redis.call('RPOP', KEYS[list])
        if item then
          found = true
          take(list - first, item)
        end
      end
    end
  end
end
if #scores > 0 then
  redis.call('ZADD', index, unpack(scores))
  redis.call('HSET', unacked, unpack(records))
end
return popped
"""

#: Messages taken at once, at most: what the script passes to one command has to fit Lua's stack.
LIMIT = 256
#: Bytes taken at once, roughly: the script holds several copies of them, and blocks the server.
BYTES = 2**20


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
        self._client = client
        self._script = client.register_script(_POP)
        self._size = 1  # bytes per message, last time

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

        Args:
            unacked: The names of the hash and of the sorted set with the messages in flight.
            lists: The lists to take from: those of all queues for the first priority, then for
                the next.
            width: The number of queues.
            now: Seconds since the epoch, from which the visibility timeout counts.
            limit: How many messages are wanted.
            fair: Whether queues take turns, or the first goes before the second.

        Raises:
            redis.RedisError: The script is refused, or the connection failed.
        """
        limit = min(limit, LIMIT, max(BYTES // self._size, 1))
        reply = self._script(
            keys=[*unacked, *lists], args=[now, limit, width, int(fair)], client=self._client
        )
        parts = iter(reply)
        popped = [
            Popped(queue, None if tag is None else tag.decode(), entry)
            for queue, tag, entry in zip(parts, parts, parts)
        ]
        if popped:
            self._size = max(sum(len(taken.entry) for taken in popped) // len(popped), 1)
        return popped
