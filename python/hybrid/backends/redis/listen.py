"""Waiting for results inside greenlets: one connection listens, and a result wakes its waiters.

Celery's consumer is shared by whoever waits: every message wakes all of them, each looks again once
a second, and before Celery 5.7 two that begin to wait at the same time take each other's
connection. Here one greenlet reads, those who begin to wait subscribe together, and nobody looks
for a result before the server has confirmed that it listens.

Who may switch: whoever waits, in :meth:`ResultConsumer._wait_for_pending`, where it also runs the
callbacks that it has brought; the gatherer of changes, which subscribes; and the subscription's
reader, which wakes the others and runs nothing of theirs.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from celery import exceptions
from celery.backends import redis
from celery.backends.asynchronous import Drainer
from celery.utils.log import get_logger
from kombu.utils.encoding import bytes_to_str

from hybrid.backends.redis.subscription import Subscription
from hybrid.errors import WorkLostError
from hybrid.hubs.base import Hub
from hybrid.hubs.gather import Gather
from hybrid.hubs.parking import ParkingLot, copied

logger = get_logger("celery.backends.redis")

#: Seconds between two calls of ``on_interval``, and between two looks where nobody listens.
INTERVAL = 1.0
#: Seconds after which a refusal of the server is put to the test again.
REFUSED_FOR = 60.0


class _Waiter:
    """One that waits for a result, or for those of a group."""

    __slots__ = ("_has_news", "_hub", "_lot", "_messages", "failure", "on_message")

    def __init__(self, hub: Hub, on_message: Callable[[Any], object] | None) -> None:
        self._hub = hub
        self._lot = ParkingLot(hub)
        self._has_news = False
        self._messages: deque[Any] = deque()
        self.on_message = on_message
        #: Why there is nothing to wait for any more.
        self.failure: BaseException | None = None

    def wake(self, *_: Any) -> None:
        """Let it look again. Thread-safe."""
        if self._hub.in_thread():
            self._has_news = True
            self._lot.unpark_all()
        else:
            self._hub.call_soon_threadsafe(self.wake)

    def tell(self, meta: Any) -> None:
        """Have it pass ``meta`` to the callback that it has brought."""
        self._messages.append(meta)
        self.wake()

    def wait(self, seconds: float | None) -> None:
        """Wait for news, at most for ``seconds``.

        Raises:
            Exception: There is nothing to wait for any more.
        """
        if not self._has_news:
            with contextlib.suppress(socket.timeout):
                self._lot.park(seconds)
        self._has_news = False
        if self.failure is not None:
            raise self.failure

    def pass_on(self) -> None:
        """Call the callback with what has come, in the greenlet of whoever has brought it.

        Raises:
            Exception: What it raises.
        """
        while self._messages and self.on_message is not None:
            self.on_message(self._messages.popleft())


class ResultConsumer(redis.ResultConsumer):  # type: ignore[misc]
    """Celery's consumer for the greenlets of one hub.

    Other threads look for their results once a second instead, and so do greenlets where the
    server does not let this user listen.

    Args:
        hub: The hub whose greenlets wait.
        options: As for Celery's.
    """

    def __init__(self, hub: Hub, *options: Any) -> None:
        super().__init__(*options)
        self.drainer = Drainer(self)  # Celery starts it; ours reads from the first wait on
        self._hub = hub
        self._subscription: Subscription | None = None
        self._changes: Gather[str | None] = Gather(hub, self._change)
        #: Those who wait until the server sends a key, by that key.
        self._unconfirmed: dict[str, ParkingLot] = {}
        self._waiters: list[_Waiter] = []
        #: Until when the server is taken at its word that this user may not listen.
        self._refused_until = 0.0
        self._connections = 0

    # -- what Celery calls

    def consume_from(self, task_id: Any) -> None:
        """Listen for a result. Does not block; whoever waits for it waits until this is so."""
        key = bytes_to_str(self._get_key_for_task(task_id))
        if self._hub.in_thread() and not self._is_refused:
            self.subscribed_to.add(key)  # which also calls off an unsubscription that is to be sent
            if not self._is_confirmed(key):
                self._unconfirmed.setdefault(key, ParkingLot(self._hub))
                self._changes.post(key)

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
        self._stop_waiting_to_listen()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.end(None)

    def statistics(self) -> dict[str, int]:
        """Return how many wait, for what the server sends, and how often it was connected to."""
        subscription = self._subscription
        return {
            "waiting": len(self._waiters),
            "listening": 0 if subscription is None else len(subscription.confirmed),
            "unconfirmed": len(self._unconfirmed),
            "connections": self._connections,
        }

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
        deadline = None if timeout is None else time.monotonic() + timeout
        waiter = _Waiter(self._hub, on_message)
        self._waiters.append(waiter)
        awaited = (result, *(getattr(result, "results", None) or ()))
        try:
            if self._hub.can_park():
                self._wait_until_listening(awaited, deadline)
            self.on_wait_for_pending(result, timeout=timeout, **kwargs)
            # Whoever iterates over a group has its results as they come.
            for one in awaited:
                one.on_ready.then(waiter.wake)
            while not result.on_ready.ready:
                left = _left(deadline)
                if not self._hub.can_park():
                    time.sleep(_shorter(left, INTERVAL))
                    self.on_wait_for_pending(result, **kwargs)
                elif self._is_refused:
                    waiter.wait(_shorter(left, INTERVAL))
                    self.on_wait_for_pending(result, **kwargs)
                else:
                    waiter.wait(_shorter(left, INTERVAL) if on_interval else left)
                waiter.pass_on()
                if on_interval:
                    on_interval()
                yield
        finally:
            self._waiters.remove(waiter)

    # -- listening

    def _is_confirmed(self, key: str) -> bool:
        return self._subscription is not None and key in self._subscription.confirmed

    @property
    def _is_refused(self) -> bool:
        return time.monotonic() < self._refused_until

    def _wait_until_listening(self, awaited: Sequence[Any], deadline: float | None) -> None:
        for result in awaited:
            task_id = getattr(result, "id", None)
            if task_id is None:
                continue
            lot = self._unconfirmed.get(bytes_to_str(self._get_key_for_task(task_id)))
            if lot is not None:
                try:
                    lot.park(_left(deadline))
                except socket.timeout:
                    raise exceptions.TimeoutError("The operation timed out.") from None

    def _stop_waiting_to_listen(self, exc: BaseException | None = None) -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for lot in unconfirmed.values():
            if exc is None:
                lot.unpark_all()
            else:
                lot.fail(exc)

    def _change(self, keys: list[str | None]) -> list[None]:
        """Have the server send those of ``keys`` that are wanted, and no others of them."""
        outcomes = [None] * len(keys)
        for key in set(keys) - self.subscribed_to:
            self._on_confirmed(key)  # there is nothing to wait for any more
        subscription = self._subscription
        if subscription is not None:
            wanted = self.subscribed_to.intersection(keys) - subscription.confirmed
            unwanted = subscription.confirmed.intersection(keys) - self.subscribed_to
            try:
                subscription.change(wanted, unwanted)
                return outcomes
            except self._connection_errors as exc:
                subscription.end(exc)  # half a command may have been sent
        if self.subscribed_to and not self._is_refused:
            try:
                self._ensure(self._connect, ())
            except self._connection_errors as exc:
                self._give_up(exc)
            except Exception as exc:
                self._refuse(exc)
        return outcomes

    def _connect(self) -> None:
        """Listen on a new connection, and look for what was published in between.

        Raises:
            Exception: The connection failed.
        """
        wanted = set(self.subscribed_to)
        client = self.backend.client
        subscription = Subscription(
            self._hub,
            client.pubsub(),
            self._tell_waiters,
            self._on_confirmed,
            self._on_end,
        )
        subscription.begin(wanted)
        self._connections += 1
        self._subscription = subscription
        try:
            is_listening = subscription.wait(wanted, self.backend.connparams.get("socket_timeout"))
        except socket.timeout as exc:
            subscription.end(ConnectionError(f"Redis confirms no subscription: {exc}"))
            is_listening = False
        if is_listening:
            keys = list(wanted)
            # Callbacks are told of what was published while nobody listened. From the first
            # connection on, they get it as a message.
            is_first = self._connections == 1
            for key, data in zip(keys, client.mget(keys)):
                if data:
                    self._tell_waiters(key, data, None, with_callbacks=not is_first)
        elif self.subscribed_to and not self._is_refused:
            raise ConnectionError("Connection lost while subscribing to results")

    def _on_confirmed(self, key: str | None) -> None:
        lot = None if key is None else self._unconfirmed.pop(key, None)
        if lot is not None:
            lot.unpark_all()

    def _on_end(self, subscription: Subscription, reason: Exception) -> None:
        if self._subscription is subscription:
            self._subscription = None
        if isinstance(reason, (*self._connection_errors, WorkLostError)):
            if self.subscribed_to:
                logger.warning("Connection lost while waiting for results: %r", reason)
                for key in self.subscribed_to:
                    self._unconfirmed.setdefault(key, ParkingLot(self._hub))
                self._changes.post(None)
        else:
            self._refuse(reason)

    def _refuse(self, reason: Exception) -> None:
        """Have everybody look once a second, because the server does not let this user listen."""
        channels = bytes_to_str(self._get_key_for_task("*"))
        logger.warning(
            "Looking for results once a second, because Redis does not let this user listen for "
            '"%s": %s. If it is a matter of permissions: ACL SETUSER … "&%s"',
            channels,
            reason,
            channels,
        )
        self._refused_until = time.monotonic() + REFUSED_FOR
        self.subscribed_to.clear()
        self._stop_waiting_to_listen()
        for waiter in self._waiters:
            waiter.wake()

    def _give_up(self, exc: Exception) -> None:
        logger.critical("Cannot listen for results: %r", exc)
        self.subscribed_to.clear()
        self._stop_waiting_to_listen(exc)
        for waiter in self._waiters:
            waiter.failure = copied(exc)
            waiter.wake()

    def _tell_waiters(self, key: str, data: Any, message: Any, with_callbacks: bool = True) -> None:
        try:
            meta = self._decode_result(data)
            meta["status"], meta["task_id"]  # what Celery's code takes for granted
            # Not `self.on_message`: Celery keeps one for all who wait.
            for waiter in self._waiters:
                if with_callbacks and waiter.on_message is not None:
                    waiter.tell(meta)
            self.on_state_change(meta, message)
        except Exception:
            logger.exception("Cannot read the result in %s", key)
            # One whose callback raised (`then`) may have its result all the same.
            for waiter in self._waiters:
                waiter.wake()


def _left(deadline: float | None) -> float | None:
    """Return the seconds until ``deadline``.

    Raises:
        celery.exceptions.TimeoutError: It has passed.
    """
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise exceptions.TimeoutError("The operation timed out.")
    return left


def _shorter(left: float | None, interval: float) -> float:
    return interval if left is None else min(left, interval)
