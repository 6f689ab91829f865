"""Storing many results in one step, each unless its task has succeeded before.

Celery reads what is stored for a task, and writes and publishes unless that says ``SUCCESS``: three
commands in two round trips. The script here does so for many tasks at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from hybrid.clients.redis.client import MultiplexedRedis
from hybrid.hubs.gather import Gather

_STORE = r"""
local left, failures = {}, {}
for index, key in ipairs(KEYS) do
  local old = redis.pcall('GET', key)
  local is_readable, is_done = true, false
  if type(old) == 'table' then
    is_readable = false
  elseif old and old ~= '' then
    local ok, meta = pcall(cjson.decode, old)
    is_readable = ok and type(meta) == 'table' and type(meta.status) == 'string'
    is_done = is_readable and meta.status == 'SUCCESS'
  end
  if not is_readable then
    left[#left + 1] = index - 1
  elseif not is_done then
    local value, expires = ARGV[2 * index - 1], ARGV[2 * index]
    local reply
    if expires == '0' then
      reply = redis.pcall('SET', key, value)
    else
      reply = redis.pcall('SETEX', key, expires, value)
    end
    if not (type(reply) == 'table' and reply.err) then
      reply = redis.pcall('PUBLISH', key, value)
    end
    if type(reply) == 'table' and reply.err then
      failures[#failures + 1] = index - 1
      failures[#failures + 1] = reply
    end
  end
end
return {left, failures}
"""

#: Bytes stored in one step, roughly: the script blocks the server.
BYTES = 2**20


class Result(NamedTuple):
    """What is stored for one task."""

    key: str | bytes
    value: str
    #: Seconds that it is kept; 0 for ever.
    expires: int


class Store:
    """Stores results, those of many greenlets at a time.

    Args:
        client: The client of the backend.
    """

    def __init__(self, client: MultiplexedRedis) -> None:
        self._client = client
        self._script = client.register_script(_STORE)
        self._gather: Gather[Result] = Gather(client.hub, self._put_many)

    def put(self, result: Result) -> bool:
        """Store ``result``, unless its task has succeeded before, and tell whoever waits for it.

        Returns:
            Whether Redis had nothing or something readable there; otherwise nothing is done.

        Raises:
            redis.RedisError: The script is refused, or the connection failed.
        """
        is_done: bool = self._gather.submit(result)
        return is_done

    def _put_many(self, results: list[Result]) -> Sequence[Any]:
        outcomes: list[Any] = []
        for part in _parts(results):
            try:
                left, failures = self._script(
                    keys=[result.key for result in part],
                    args=[arg for result in part for arg in (result.value, result.expires)],
                    client=self._client,
                )
            except Exception as exc:
                outcomes += [exc] * len(part)
            else:
                found = iter(failures)
                failed = dict(zip(found, found))
                # What fails for one result costs nobody else anything.
                outcomes += [failed.get(index, index not in left) for index in range(len(part))]
        return outcomes


def _parts(results: list[Result]) -> Iterator[list[Result]]:
    part: list[Result] = []
    size = 0
    for result in results:
        if part and size + len(result.value) > BYTES:
            yield part
            part, size = [], 0
        part.append(result)
        size += len(result.value)
    yield part
