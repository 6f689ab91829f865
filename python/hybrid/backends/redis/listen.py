"""Waiting for results inside greenlets: one connection listens, and a result wakes its waiters.

Celery's consumer is shared by whoever waits: every message wakes all of them, each looks again once
a second, and before Celery 5.7 two that begin to wait at the same time take each other's
connection. Here one greenlet reads, those who begin to wait subscribe together, and nobody looks
for a result before the server has confirmed that it listens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

from celery import exceptions
from celery.backends import redis
from celery.backends.asynchronous import Drainer
from celery.utils.log import get_logger
from kombu.utils.encoding import bytes_to_str

from hybrid.hubs.base import Greenlet, Hub
from hybrid.hubs.gather import Gather
from hybrid.hubs.parking import copied

logger = get_logger("celery.backends.redis")

#: Seconds between two calls of ``on_interval``, and between two looks from another thread.
INTERVAL = 1.0

#: Seconds after which the reader looks whether its connection is still the one in use.
_READ_TIMEOUT = 60.0


class _Stopped(BaseException):
    """Ends the reader of a connection that is given up."""


class _Waiter:
    """One that waits for a result, or for those of a group."""

    __slots__ = ("failure", "on_message", "woken")

    def __init__(self, on_message: Callable[[Any], object] | None) -> None:
        self.on_message = on_message
        self.woken = threading.Event()
        #: Why there is nothing to wait for any more.
        self.failure: BaseException | None = None

    def wake(self, *_: Any) -> None:
        self.woken.set()

    def wait(self, seconds: float | None) -> None:
        """Sleep until there is news, at most for ``seconds``."""
        self.woken.wait(seconds)
        self.woken.clear()
        if self.failure is not None:
            raise self.failure


class ResultConsumer(redis.ResultConsumer):  # type: ignore[misc]
    """Celery's consumer for the greenlets of one hub.

    Other threads look for their results once a second instead.

    Args:
        hub: The hub whose greenlets wait.
        options: As for Celery's.
    """

    def __init__(self, hub: Hub, *options: Any) -> None:
        super().__init__(*options)
        self.drainer = Drainer(self)  # Celery starts it; ours reads from the first wait on
        self._hub = hub
        self._reader: Greenlet | None = None
        self._changes: Gather[str] = Gather(hub, self._change)
        #: The keys that the server sends; those it is to send are in ``subscribed_to``.
        self._confirmed: set[str] = set()
        #: Set at every change of ``_confirmed`` and when the connection is lost.
        self._news = threading.Event()
        self._waiters: list[_Waiter] = []

    def consume_from(self, task_id: Any) -> None:
        """Listen for a result; returns when whatever is published from now on will be heard."""
        key = bytes_to_str(self._get_key_for_task(task_id))
        if self._hub.can_park():
            self.subscribed_to.add(key)  # which also calls off an unsubscription that is to be sent
            if key not in self._confirmed:
                self._changes.submit(key)

    def cancel_for(self, task_id: Any) -> None:
        """Listen no longer. Never blocks: garbage collection calls it, anywhere."""
        key = bytes_to_str(self._get_key_for_task(task_id))
        if key in self.subscribed_to:
            self.subscribed_to.discard(key)
            if self._hub.in_thread():
                self._changes.post(key)

    def stop(self) -> None:
        """Close the connection."""
        self.subscribed_to.clear()
        if self._pubsub is not None:
            self._lose(self._pubsub)

    def _change(self, keys: list[str]) -> list[None]:
        if self._pubsub is not None:
            try:
                self._tell(self._pubsub, keys)
                return [None] * len(keys)
            except self._connection_errors:
                pass
        if self.subscribed_to:
            try:
                self._ensure(self._connect, ())
            except self._connection_errors as exc:
                self._give_up(exc)
                raise
        return [None] * len(keys)

    def _tell(self, pubsub: Any, keys: list[str]) -> None:
        """Have the server send those of ``keys`` that are wanted, and no others of them."""
        wanted = self.subscribed_to.intersection(keys) - self._confirmed
        unwanted = self._confirmed.intersection(keys) - self.subscribed_to
        try:
            if unwanted:
                self._confirmed -= unwanted
                pubsub.unsubscribe(*unwanted)
            if wanted:
                pubsub.subscribe(*wanted)
        except BaseException:
            self._lose(pubsub)  # half a command may have been sent
            raise
        self._await_confirmation(pubsub, wanted)

    def _await_confirmation(self, pubsub: Any, wanted: set[str]) -> None:
        timeout = self.backend.connparams.get("socket_timeout")
        while not wanted <= self._confirmed:
            if self._pubsub is not pubsub:
                raise ConnectionError("Connection lost while subscribing to results")
            self._news.clear()
            if not self._news.wait(timeout):
                self._lose(pubsub)

    def _connect(self) -> None:
        """Listen on a new connection, and look for what was published in between."""
        wanted = set(self.subscribed_to)
        client = self.backend.client
        pubsub = client.pubsub()
        # redis-py would connect anew by itself, in whichever greenlet notices first.
        pubsub._execute = _execute
        try:
            pubsub.subscribe(*wanted)
        except BaseException:
            pubsub.close()
            raise
        self._pubsub = pubsub
        self._reader = self._hub.spawn(self._read, pubsub)
        try:
            self._await_confirmation(pubsub, wanted)
            keys = list(wanted)
            for key, data in zip(keys, client.mget(keys)):
                if data:
                    self._tell_waiters(key, data, None)
        except BaseException:
            self._lose(pubsub)  # the next one looks for what this has not got
            raise

    def _read(self, pubsub: Any) -> None:
        try:
            while pubsub is self._pubsub:
                message = pubsub.get_message(timeout=_READ_TIMEOUT)
                if message is not None:
                    self._take(message)
        except self._connection_errors as exc:
            if pubsub is self._pubsub:
                logger.warning("Connection lost while waiting for results: %r", exc)
                self._lose(pubsub)
        except _Stopped:
            pass
        finally:
            pubsub.close()

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "message":
            self._tell_waiters(bytes_to_str(message["channel"]), message["data"], message)
        elif message["type"] == "subscribe":
            self._confirmed.add(bytes_to_str(message["channel"]))
            self._news.set()

    def _lose(self, pubsub: Any) -> None:
        """Give up a connection; whoever still waits for a result gets another one."""
        if self._pubsub is not pubsub:
            return
        self._pubsub = None
        self._confirmed.clear()
        self._news.set()
        if self.subscribed_to:
            self._changes.post("")
        # Only who waits for a socket may close it: to eventlet, the next one with its number
        # would be the same.
        self._hub.call_soon(_end, self._reader)

    def _give_up(self, exc: Exception) -> None:
        logger.critical("Cannot listen for results: %r", exc)
        self.subscribed_to.clear()
        for waiter in self._waiters:
            waiter.failure = copied(exc)
            waiter.wake()

    def _wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        on_interval: Callable[[], object] | None = None,
        on_message: Callable[[Any], object] | None = None,
        **kwargs: Any,
    ) -> Iterator[None]:
        # Celery looks at a group once, and sleeps for this long after it.
        kwargs["interval"] = 0
        self.on_wait_for_pending(result, timeout=timeout, **kwargs)
        deadline = None if timeout is None else time.monotonic() + timeout
        waiter = _Waiter(on_message)
        self._waiters.append(waiter)
        # Whoever iterates over a group has its results as they come.
        for awaited in (result, *(getattr(result, "results", None) or ())):
            awaited.on_ready.then(waiter.wake)
        try:
            while not result.on_ready.ready:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise exceptions.TimeoutError("The operation timed out.")
                if self._hub.can_park():
                    waiter.wait(_shorter(left, INTERVAL) if on_interval else left)
                else:
                    time.sleep(_shorter(left, INTERVAL))
                    self.on_wait_for_pending(result, **kwargs)
                if on_interval:
                    on_interval()
                yield
        finally:
            self._waiters.remove(waiter)

    def _tell_waiters(self, key: str, data: Any, message: Any) -> None:
        try:
            meta = self._decode_result(data)
            # Not `self.on_message`: Celery keeps one for all who wait.
            for waiter in list(self._waiters):
                if waiter.on_message is not None:
                    waiter.on_message(meta)
            self.on_state_change(meta, message)
        except Exception:
            logger.exception("Cannot read the result in %s", key)


def _end(reader: Greenlet) -> None:
    if not reader.dead:
        reader.throw(_Stopped)


def _shorter(left: float | None, interval: float) -> float:
    return interval if left is None else min(left, interval)


def _execute(_: Any, command: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return command(*args, **kwargs)
