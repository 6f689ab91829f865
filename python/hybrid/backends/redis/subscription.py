"""One opening of the connection on which the server sends results, from its first key to its end.

Who may switch: the subscription's own greenlet, which reads; and whoever calls :meth:`begin`,
:meth:`change` and :meth:`wait`, which is never a greenlet that runs a task. :meth:`end` does not.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Callable

from kombu.utils.encoding import bytes_to_str

from hybrid.errors import WorkLostError
from hybrid.hubs.base import Greenlet, Hub
from hybrid.hubs.parking import ParkingLot
from hybrid.patches import redis as patches

#: Seconds after which the reader looks whether it is still wanted.
_READ_TIMEOUT = 60.0


class _StoppedError(BaseException):
    """Ends the reader of a subscription that has ended."""


class Subscription:
    """A connection that listens. It ends once, with a reason, and is not used again.

    Args:
        hub: The hub whose greenlet reads.
        pubsub: redis-py's publish/subscribe object, not subscribed to anything.
        on_message: Called with the key, the data and redis-py's message of each result.
        on_confirmed: Called with each key that the server sends from now on.
        on_end: Called once with the subscription and the reason, unless it is stopped.
    """

    def __init__(
        self,
        hub: Hub,
        pubsub: Any,
        on_message: Callable[[str, Any, Any], None],
        on_confirmed: Callable[[str], None],
        on_end: Callable[[Subscription, Exception], None],
    ) -> None:
        self._hub = hub
        self._pubsub = pubsub
        # redis-py would connect anew by itself, in whichever greenlet notices first.
        patches.PUBSUB_EXECUTE.replace(pubsub, _execute)
        self._on_message = on_message
        self._on_confirmed = on_confirmed
        self._on_end = on_end
        self._reader: Greenlet | None = None
        self._changed = ParkingLot(hub)
        #: The keys that the server sends.
        self.confirmed: set[str] = set()
        self.is_open = True

    def begin(self, keys: Collection[str]) -> None:
        """Connect, have the server send ``keys``, and read from now on.

        Raises:
            redis.RedisError: The server cannot be reached or refuses the login.
        """
        try:
            self._pubsub.subscribe(*keys)
        except BaseException:
            self.is_open = False
            self._pubsub.close()
            raise
        self._reader = self._hub.spawn(self._read)

    def change(self, wanted: Collection[str], unwanted: Collection[str]) -> None:
        """Have the server send ``wanted`` and no longer ``unwanted``; wait for no confirmation.

        Raises:
            redis.RedisError: The connection failed.
        """
        self.confirmed.difference_update(unwanted)
        if unwanted:
            self._pubsub.unsubscribe(*unwanted)
        if wanted:
            self._pubsub.subscribe(*wanted)

    def wait(self, keys: Collection[str], seconds: float | None) -> bool:
        """Wait until the server sends all of ``keys``; tell whether it does.

        Raises:
            socket.timeout: It has not said so, ``seconds`` after its last word.
        """
        while self.is_open and not self.confirmed.issuperset(keys):
            self._changed.park(seconds)
        return self.is_open

    def end(self, reason: Exception | None) -> None:
        """Give the connection up; ``None`` if it is of no use any more."""
        if not self.is_open:
            return
        self.is_open = False
        self.confirmed.clear()
        self._changed.unpark_all()
        if self._reader is not None:
            # Only who waits for a socket may close it: to eventlet, the next one with its number
            # would be the same.
            self._hub.call_soon(self._stop, self._reader)
        if reason is not None:
            self._on_end(self, reason)

    def _stop(self, reader: Greenlet) -> None:
        if not reader.dead:
            self._hub.interrupt(reader, _StoppedError)

    def _read(self) -> None:
        try:
            while self.is_open:
                message = self._pubsub.get_message(timeout=_READ_TIMEOUT)
                if message is not None:
                    self._take(message)
        except _StoppedError:
            pass
        except Exception as exc:
            self._reader = None
            self.end(exc)
        except BaseException as exc:
            self._reader = None
            self.end(WorkLostError(f"whoever listened for results was ended by {exc!r}"))
            raise
        finally:
            self._pubsub.close()

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "message":
            self._on_message(bytes_to_str(message["channel"]), message["data"], message)
        elif message["type"] == "subscribe":
            key = bytes_to_str(message["channel"])
            self.confirmed.add(key)
            self._changed.unpark_all()
            self._on_confirmed(key)


def _execute(_: Any, command: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return command(*args, **kwargs)
