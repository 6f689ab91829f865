"""Consuming on a fresh channel when many deliveries wait on the present one.

RabbitMQ finds what is acknowledged by walking past the earlier deliveries of the channel. Behind
hundreds of thousands of tasks that wait for their time, each acknowledgement of another task would
take it tens of milliseconds. So the waiting ones stay on the channels that they came through, about
a thousand on each, and what comes next comes through another one.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from amqp.exceptions import RecoverableConnectionError
from celery.utils.log import get_logger
from celery.worker import state as worker_state

from hybrid.worker.consuming.prefetch import Prefetch

logger = get_logger("celery.worker.consumer")

#: Waiting deliveries on one channel.
CHANNEL_LIMIT = 1024
#: Seconds between two counts of what is out on earlier channels.
COUNT_INTERVAL = 0.01


class Rotation:
    """The channels of one consumer, on one connection to RabbitMQ.

    For the greenlet of the consumer's loop, which also carries out what remote control changes in
    the queues that are consumed from.

    Args:
        consumer: The worker's consumer, whose task consumer is on a channel of ours.
        prefetch: Told how many deliveries are out on earlier channels.
    """

    def __init__(self, consumer: Any, prefetch: Prefetch) -> None:
        self._consumer = consumer
        self._prefetch = prefetch
        #: Celery uses it for other things as well, so it stays open.
        self._first = consumer.task_consumer.channel
        #: Channels that deliveries are out on, but for the present one.
        self._earlier: list[Any] = []
        self._counted = 0.0

    def turn(self) -> None:
        """Go over to another channel if it is time to, and close those that are done with.

        Raises:
            Exception: What breaks the connection or the channel.
        """
        channel = self._consumer.task_consumer.channel
        if channel.epoch.reason is not None:
            # kombu would connect again by itself, and nobody would consume there.
            raise RecoverableConnectionError("connection already closed")
        # Those that run, or are about to, will be settled by themselves.
        waiting = len(channel.epoch.window) - len(worker_state.reserved_requests)
        if waiting >= CHANNEL_LIMIT and self._can_leave(channel):
            self._go_over(channel)
        elif self._earlier and monotonic() - self._counted >= COUNT_INTERVAL:
            self._count()

    def _can_leave(self, channel: Any) -> bool:
        # Half of the channels are for whoever else uses the connection.
        if len(self._earlier) >= (channel.connection.channel_max or 2047) // 2:
            return False
        # Between two consumers, the broker deletes a queue that asks for it, and passes one on that
        # is for a single consumer. What was not declared here may be such a queue.
        return not any(
            queue.auto_delete
            or queue.no_declare
            or (queue.queue_arguments or {}).get("x-single-active-consumer")
            for queue in self._consumer.task_consumer.queues
        )

    def _go_over(self, channel: Any) -> None:
        task_consumer = self._consumer.task_consumer
        fresh = channel.connection.channel()
        task_consumer.cancel()  # until the broker confirms it, messages come and are handled
        self._earlier.append(channel)
        self._count()
        task_consumer.channel = fresh
        self._prefetch.tell(is_new=True)
        declares, task_consumer.auto_declare = task_consumer.auto_declare, False
        task_consumer.revive(fresh)
        task_consumer.auto_declare = declares
        task_consumer.consume()
        logger.debug("Consuming on channel %s after %d", fresh.channel_id, len(self._earlier))

    def _count(self) -> None:
        self._counted = monotonic()
        done = [
            one for one in self._earlier if not len(one.epoch.window) and one is not self._first
        ]
        self._earlier = [one for one in self._earlier if one not in done]
        self._prefetch.elsewhere = sum(len(one.epoch.window) for one in self._earlier)
        for one in done:
            one.close()
