"""Celery's Redis result backend on a client that all greenlets share."""

from __future__ import annotations

import inspect
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from celery.backends import redis
from celery.states import FAILURE
from celery.utils.log import get_logger
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from hybrid import hubs
from hybrid.backends.redis.listen import ResultConsumer
from hybrid.backends.redis.store import Result, Store
from hybrid.clients.redis import Command, MultiplexedRedis, shared
from hybrid.detours import RESULTS
from hybrid.encoding import encode_json

logger = get_logger("celery.backends.redis")

#: Since 5.7.
_SET_TAKES_EXPIRES = "expires" in inspect.signature(redis.RedisBackend.set).parameters

#: Characters beyond which a result travels by itself.
LARGE = 2**17


class RedisBackend(redis.RedisBackend):  # type: ignore[misc]
    """Celery's backend: keys, formats, retries, chords and results are its own.

    What greenlets store and read at the same time travels together, on one connection.
    """

    #: Why results are stored as Celery stores them; ``None`` where they are stored in groups.
    declined: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._hub = hubs.running()
        super().__init__(*args, **kwargs)
        # What is made before the pool is started is Celery's, and stays so.
        hub = self._hub
        if hub is not None:
            self.result_consumer = ResultConsumer(
                hub, self, self.app, self.accept, self._pending_results, self._pending_messages
            )

    @property
    def _is_ours(self) -> bool:
        """Whether it was made for the pool that runs in this process; a forked child has none."""
        return self._hub is not None and self._hub is hubs.running()

    def _create_client(self, **params: Any) -> Any:
        hub = self._hub if self._is_ours else None
        is_usual = self._ConnectionPool in (None, self.redis.ConnectionPool)
        if hub is None or not is_usual:
            return super()._create_client(**params)
        return shared(hub, params)

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Take note of a call, without listening for its result as Celery does.

        Most tasks that call others never ask for the result. Whoever does listens from then on,
        and looks first whether it is there.
        """
        if not self._is_ours:
            super().on_task_call(producer, task_id)

    def _store(self) -> Store | None:
        """Return the store to use, or ``None`` where Celery has to store by itself."""
        # kombu's cached property takes a lock whenever it is read.
        client = self.__dict__.get("client") or self.client
        if (
            self.declined is not None
            or not self._is_plain_json
            or not isinstance(client, MultiplexedRedis)
            or not client.hub.can_park()
        ):
            return None
        found: tuple[MultiplexedRedis, Store] | None = self.__dict__.get("_known_store")
        if found is None or found[0] is not client:
            found = self.__dict__["_known_store"] = (client, Store(client))
        return found[1]

    def explain(self) -> str | None:
        """Say why results are stored one by one at the moment, if they are."""
        if not self._is_ours:
            return "no pool of ours runs in this process"
        if self.declined is not None:
            return self.declined
        if not self._is_plain_json:
            return f"the serializer {self.serializer}, or a compression"
        if not isinstance(self.client, MultiplexedRedis):
            return "a client of its own kind"
        return None

    def store_result(
        self,
        task_id: Any,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Store the result of a task, and return it as it is stored.

        Raises:
            Exception: What Celery raises when it cannot, even after trying again.
        """
        store = self._store()
        if store is not None:
            encoded = self.encode_result(result, state)
            meta = self._get_result_meta(encoded, state, traceback, request)
            meta["task_id"] = bytes_to_str(task_id)
            value = self.encode(meta)
            # Since 5.7, failures may have an expiry of their own.
            expires = getattr(self, "failure_expires", None) if state == FAILURE else None
            expires = self.expires if expires is None else expires
            if len(value) <= LARGE:
                try:
                    if store.put(Result(self.get_key_for_task(task_id), value, expires or 0)):
                        return encoded
                    RESULTS.note("results where something unreadable has been stored")
                except ResponseError as exc:
                    self._decline(exc)
                except self.connection_errors:
                    pass  # Celery has rules for trying again
            else:
                RESULTS.note(f"results of more than {LARGE} characters")
        else:
            RESULTS.note(self.explain() or "results stored in other threads, or in the hub")
        return super().store_result(task_id, result, state, traceback, request, **kwargs)

    def _decline(self, exc: ResponseError) -> None:
        if isinstance(exc, (NoPermissionError, NoScriptError)) or "unknown command" in str(exc):
            self.declined = f"Redis refuses the script: {exc}"
            logger.warning("Storing results one by one, because %s", self.declined)

    def _get_result_meta(
        self,
        result: Any,
        state: str,
        traceback: Any,
        request: Any,
        format_date: bool = True,
        encode: bool = False,
    ) -> Any:
        if self._is_extended or state not in self.READY_STATES or not format_date:
            return super()._get_result_meta(result, state, traceback, request, format_date, encode)
        # `Celery.now` converts from UTC to UTC; looking the setting up costs as much again.
        meta = {
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": self.current_task_children(request),
            "date_done": datetime.now(self._timezone).isoformat(),
        }
        for name, attribute in (("group_id", "group"), ("parent_id", "parent_id")):
            value = getattr(request, attribute, None) if request else None
            if value:
                meta[name] = value
        return meta

    @cached_property
    def _timezone(self) -> Any:
        return self.app.timezone  # kombu's cached property takes a lock whenever it is read

    @cached_property
    def _is_extended(self) -> bool:
        return bool(self.app.conf.find_value_for_key("extended", "result"))

    @cached_property
    def _is_plain_json(self) -> bool:
        return self.serializer == "json" and not getattr(self, "compression", None)

    def encode(self, data: Any) -> Any:
        """Serialize ``data`` with the serializer of the backend."""
        if self._is_plain_json:
            text = encode_json(data)
            if text is not None:
                return text
        return super().encode(data)

    def set(self, key: Any, value: Any, expires: Any = None, **retry_policy: Any) -> Any:
        """Store ``value`` and tell whoever waits for it, with Celery's retries."""
        client = self.client
        if (
            retry_policy
            or not isinstance(client, MultiplexedRedis)
            or not client.hub.can_park()
            or (isinstance(value, str) and len(value) > self._MAX_STR_VALUE_SIZE)
        ):
            return self._set_as_celery(key, value, expires, **retry_policy)
        if expires is None:
            expires = self.expires
        store = ("SETEX", key, expires, value) if expires else ("SET", key, value)
        # Celery puts these two into a transaction. Whoever is told of the result finds it anyway.
        commands: list[Command] = [(store, {}), (("PUBLISH", key, value), {})]
        try:
            replies = client.show(commands, partial(client.run, commands, is_transaction=False))
        except self.connection_errors:
            return self._set_as_celery(key, value, expires)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return None

    def _set_as_celery(self, key: Any, value: Any, expires: Any, **retry_policy: Any) -> Any:
        if expires is not None and _SET_TAKES_EXPIRES:
            retry_policy["expires"] = expires
        return super().set(key, value, **retry_policy)
