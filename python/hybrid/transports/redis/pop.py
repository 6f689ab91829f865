"""Taking many messages from Redis at once, none of which is ever in nobody's hands.

kombu takes one message with ``BRPOP`` and writes it to ``unacked`` after that: a worker killed
between the two has lost it. The script here does both for many messages in one step, in kombu's
order and format. It records before it removes: whatever fails in it, the messages are in their
queues still.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

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

local misfits, popped, scores, records, removals, count = {}, {}, {}, {}, {}, 0
local seen = 0

-- An error that names the key, if it is that the key is of another type.
local function named(err, key, kind)
  local found = redis.call('TYPE', key).ok
  if found == kind or found == 'none' then
    return err
  end
  return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. kind)
end

local function take(list, item)
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

-- How many there are in each list of one priority.
local function measure(first)
  local lengths, sum = {}, 0
  for place = 0, width - 1 do
    local length = redis.pcall('LLEN', KEYS[first + place])
    if type(length) == 'table' then
      local found = redis.call('TYPE', KEYS[first + place]).ok
      if found == 'list' or found == 'none' then
        return length
      end
      misfits[#misfits + 1] = first + place - 3
      misfits[#misfits + 1] = found
      length = 0
    end
    lengths[place], sum = length, sum + length
  end
  return nil, lengths, sum
end

-- How many to take from each of them, so that queues take turns or the first goes first.
local function share(lengths, left)
  local parts, given = {}, 0
  for place = 0, width - 1 do
    parts[place] = fair and 0 or math.min(lengths[place], left - given)
    given = given + parts[place]
  end
  local found = fair
  while found and given < left do
    found = false
    for place = 0, width - 1 do
      if given < left and parts[place] < lengths[place] then
        found, given, parts[place] = true, given + 1, parts[place] + 1
      end
    end
  end
  return parts, given
end

-- A message is in its queue until its record is written: an error, wherever it comes, leaves the
-- messages where they were.
for first = 3, #KEYS, width do
  if count >= wanted then
    break
  end
  seen = first + width - 3
  local err, lengths, sum = measure(first)
  if err then
    return err
  end
  if sum > 0 then
    local parts, given = share(lengths, wanted - count)
    local found, deepest = {}, 0
    for place = 0, width - 1 do
      if parts[place] > 0 then
        found[place] = redis.call('LRANGE', KEYS[first + place], -parts[place], -1)
        removals[#removals + 1] = KEYS[first + place]
        removals[#removals + 1] = -parts[place] - 1
        deepest = math.max(deepest, parts[place])
      end
    end
    if fair then
      for turn = 0, deepest - 1 do
        for place = 0, width - 1 do
          if turn < parts[place] then
            take(place, found[place][parts[place] - turn])
          end
        end
      end
    else
      for place = 0, width - 1 do
        for at = parts[place], 1, -1 do
          take(place, found[place][at])
        end
      end
    end
    count = count + given
  end
end

if count > 0 then
  -- A full server refuses what takes memory, unless the script has begun to write: taking messages
  -- is what frees it. This removes nothing, and fails for whoever may not remove.
  redis.call('LTRIM', removals[1], 0, -1)
end
if #scores > 0 then
  local held = redis.pcall('HLEN', unacked)
  if type(held) == 'table' then
    return named(held, unacked, 'hash')
  end
  local added = redis.pcall('ZADD', index, unpack(scores))
  if type(added) == 'table' then
    return named(added, index, 'zset')
  end
  redis.call('HSET', unacked, unpack(records))
end
for at = 1, #removals, 2 do
  redis.call('LTRIM', removals[at], 0, removals[at + 1])
end
return {seen, misfits, popped}
"""

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


def passes(exc: ResponseError) -> bool:
    """Tell whether what the server has refused may be granted later, without a new worker."""
    return isinstance(exc, (OutOfMemoryError, ReadOnlyError)) or bool(_PASSING.search(str(exc)))


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
            now: Seconds since the epoch, from which the visibility timeout counts.
            limit: How many messages are wanted.
            fair: Whether queues take turns, or the first goes before the second.

        Raises:
            redis.RedisError: The script is refused, and has taken nothing; or the connection
                failed.
        """
        limit = min(limit, LIMIT, max(BYTES // self._size, 1))
        seen, misfits, reply = self._script(
            keys=[*unacked, *lists], args=[now, limit, width, int(fair)], client=self.client
        )
        found = iter(misfits)
        unseen = set(lists[seen:])
        self.misfits = {key: kind for key, kind in self.misfits.items() if key in unseen}
        self.misfits.update((lists[place], kind.decode()) for place, kind in zip(found, found))
        parts = iter(reply)
        popped = [
            Popped(queue, None if tag is None else tag.decode(), entry)
            for queue, tag, entry in zip(parts, parts, parts)
        ]
        if popped:
            self._size = max(sum(len(taken.entry) for taken in popped) // len(popped), 1)
        return popped
