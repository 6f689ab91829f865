"""redis-py's pipeline on the connection that all greenlets share."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from redis.client import Pipeline

from hybrid.clients.redis.call import Command

if TYPE_CHECKING:
    from hybrid.clients.redis.client import MultiplexedRedis


class MultiplexedPipeline(Pipeline):  # type: ignore[misc]
    """redis-py's pipeline, sent through the connection that all greenlets share."""

    def __init__(self, client: MultiplexedRedis, transaction: bool, shard_hint: Any) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Execute what was called, and return one reply per command.

        Raises:
            redis.RedisError: A command failed and ``raise_on_error`` is set, or all did.
        """
        stack = self.command_stack
        needs_its_own = self.watching or self.connection is not None or self.scripts
        if needs_its_own or not stack or not self._client.can_share(stack):
            # redis-py is not typed in all its versions.
            return super().execute(raise_on_error)  # type: ignore[no-any-return]
        if self._client.is_seen:
            return self._execute_as_seen(partial(self._execute_shared, raise_on_error))
        try:
            return self._execute_shared(raise_on_error)
        finally:
            self.reset()

    def show(self, commands: list[Command], execute: Callable[[], Any]) -> Any:
        """Execute ``commands`` by ``execute``, which others see as if it were this pipeline."""
        self.command_stack = commands
        return self._execute_as_seen(execute)

    def _execute_as_seen(self, execute: Callable[[], list[Any]]) -> list[Any]:
        shared: Any = _Shared(self.connection_pool.connection_kwargs, execute)
        self.connection = shared
        return super().execute()  # type: ignore[no-any-return]

    def _execute_shared(self, raise_on_error: bool) -> list[Any]:
        stack = self.command_stack
        is_transaction = bool(self.transaction or self.explicit_transaction)
        replies = self._client.run(list(stack), is_transaction)
        if raise_on_error:
            self.raise_first_error(stack, replies)
        return replies

    def reset(self) -> None:
        """Forget what was called, and give the connection back."""
        if isinstance(self.connection, _Shared):
            self.connection = None
        super().reset()


class _Shared:
    """Stands in for a connection of redis-py's, to which it leaves what is to be tried again.

    Args:
        options: Those of the connection.
        execute: Executes the commands of the pipeline, on the connection that is shared.
    """

    def __init__(self, options: dict[str, Any], execute: Callable[[], Any]) -> None:
        # What redis-py and others tell of a connection.
        self.host, self.port = options.get("host"), options.get("port")
        self.db = options.get("db", 0)
        self.retry = self
        self._execute = execute

    def call_with_retry(self, *_: Any, **__: Any) -> Any:
        return self._execute()
