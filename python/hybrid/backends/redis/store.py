"""Storing many results in one step, each unless its task has succeeded before.

Celery reads what is stored for a task, and writes and publishes unless that says ``SUCCESS``: three
commands in two round trips. The script here does so for many tasks at once: for all that store in
one turn of the hub.

Who may switch: only who waits for its own outcome, in :meth:`Store.put`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from hashlib import sha1
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from hybrid.clients.redis.call import Call, Command
from hybrid.clients.redis.client import MultiplexedRedis
from hybrid.hubs.parking import Place, copied

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

_SHA = sha1(_STORE.encode(), usedforsecurity=False).hexdigest()

#: Results, and bytes of them, that are stored in one step, roughly: the script blocks the server.
RESULTS, BYTES = 1024, 2**20


class Result(NamedTuple):
    """What is stored for one task."""

    key: str | bytes
    value: str
    #: Seconds that it is kept; 0 for ever.
    expires: int


#: What is stored in one step, and who waits for it.
Step = list[tuple[Result, Place]]


class Store:
    """Stores results, those of many greenlets at a time.

    Args:
        client: The client of the backend.
    """

    def __init__(self, client: MultiplexedRedis) -> None:
        self._client = client
        self._waiting: Step = []

    def put(self, result: Result) -> bool:
        """Store ``result``, unless its task has succeeded before, and tell whoever waits for it.

        It is stored even if the calling greenlet is ended meanwhile.

        Returns:
            Whether Redis had nothing or something readable there; otherwise nothing is done.

        Raises:
            redis.RedisError: The script is refused, or the connection failed.
        """
        if not self._client.is_seen:
            return self._put(result)
        # Its own part of the group is shown to whoever looks.
        command = ("EVALSHA", _SHA, 1, result.key, result.value, result.expires)
        return bool(self._client.show([(command, {})], partial(self._put, result)))

    def _put(self, result: Result) -> bool:
        client = self._client
        client.admit()
        place = Place(client.hub)
        self._waiting.append((result, place))
        if len(self._waiting) == 1:
            client.collect(self._post_all)
        is_done: bool = place.wait()
        return is_done

    def _post_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for step in _steps(waiting) if len(waiting) > 1 else (waiting,):
            self._post(step)

    def _post(self, step: Step, loading: bool = False) -> None:
        keys: list[str | bytes] = []
        arguments: list[str | int] = []
        for result, _ in step:
            keys.append(result.key)
            arguments += (result.value, result.expires)
        commands: list[Command] = [(("EVALSHA", _SHA, len(keys), *keys, *arguments), {})]
        if loading:
            commands.insert(0, (("SCRIPT", "LOAD", _STORE), {}))
        try:
            # Stored and told twice is as good as once, and Celery tries only half of it again.
            self._client.post(commands, partial(self._settle, step, loading), survives_loss=True)
        except Exception as exc:
            if len(step) > 1:  # one of them cannot be sent
                for one in step:
                    self._post([one], loading)
            else:
                step[0][1].fail(exc)

    def _settle(self, step: Step, loaded: bool, call: Call) -> None:
        reply: Any = call.error or call.replies[-1]
        if isinstance(reply, NoScriptError):
            if not loaded:
                self._post(step, loading=True)
                return
            if isinstance(call.replies[0], Exception):
                reply = call.replies[0]
        if isinstance(reply, BaseException):
            for _, place in step:
                place.fail(copied(reply))
            return
        left, failures = reply
        found = iter(failures)
        failed = dict(zip(found, found))
        for index, (_, place) in enumerate(step):
            if index in failed:  # which costs nobody else anything
                place.fail(failed[index])
            else:
                place.tell(index not in left)


def _steps(waiting: Step) -> Iterator[Step]:
    step: Step = []
    size = 0
    for result, place in waiting:
        if step and (size + len(result.value) > BYTES or len(step) == RESULTS):
            yield step
            step, size = [], 0
        step.append((result, place))
        size += len(result.value)
    yield step
