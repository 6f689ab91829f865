"""redis-py's pipeline on the connection that all greenlets share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.client import Pipeline

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
        try:
            is_transaction = bool(self.transaction or self.explicit_transaction)
            replies = self._client.run(list(stack), is_transaction)
            if raise_on_error:
                self.raise_first_error(stack, replies)
            return replies
        finally:
            self.reset()
