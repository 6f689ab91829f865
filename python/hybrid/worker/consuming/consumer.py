"""Celery's consumer, with our strategies for the tasks that they fit.

Celery trusts the types in a message: where one is wrong, an exception leaves its handler, ends the
consumer's loop, and the worker with it. Here such a message is refused, and costs nobody else
anything. An error of code is no such message: the consumer stops, as Celery's does, and the message
stays with the broker. And a message that only our strategies fail at is run by Celery's.
"""

from __future__ import annotations

import logging
from typing import Any, Callable

from celery import bootsteps, signals
from celery.exceptions import InvalidTaskError
from celery.utils.log import get_logger
from celery.worker import consumer
from celery.worker import request as celery_request
from celery.worker import state as worker_state
from kombu.common import ignore_errors
from kombu.exceptions import ContentDisallowed, DecodeError, OperationalError
from vine import promise

from hybrid.backends import sharing
from hybrid.backends.redis import RedisBackend
from hybrid.detours import STRATEGY
from hybrid.hubs.base import Greenlet
from hybrid.transports import amqp, redis
from hybrid.transports.redis.qos import QoS
from hybrid.worker import settings, shutdown
from hybrid.worker.consuming import reading, request, strategy
from hybrid.worker.consuming.held import DueLine, cancel_all
from hybrid.worker.consuming.loop import greenloop
from hybrid.worker.consuming.prefetch import Prefetch
from hybrid.worker.execution import collector, tracing
from hybrid.worker.publishing import publish
from hybrid.worker.watching import events, lines, received

logger = get_logger("celery.worker.consumer")

STOCK_CONTROL = "celery.worker.consumer.control:Control"
HYBRID_CONTROL = "hybrid.worker.consuming.control:Control"
#: With prefetching unlimited, jobs that may wait for each one that can run.
BACKLOG_PER_SLOT = 4
#: Messages for one task that our strategy may fail at and Celery's take, before it is given up.
MISREADINGS = 3


def _promise_now(_: Callable[..., Any], args: tuple[Any, ...], **options: Any) -> promise:
    """Return a promise to acknowledge a message as soon as Celery says so.

    Before 5.7, Celery puts this off until the consumer has the next message, or for two seconds.
    """
    return promise(_call_now, args, **options)


def _call_now(function: Callable[..., Any], *args: Any) -> None:
    try:
        function(*args)
    except Exception:
        logger.exception("%r raised", function)


def _not_read_here(failure: str) -> str:
    return f"{MISREADINGS} messages could not be read here, and Celery ran them: {failure}"


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """The consumer of workers on our pools."""

    loop = staticmethod(greenloop)

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc]
        """Celery's steps, with a mailbox that outlives its connection."""

        default_steps = tuple(
            HYBRID_CONTROL if step == STOCK_CONTROL else step
            for step in consumer.Consumer.Blueprint.default_steps
        )

        def shutdown(self, parent: Any) -> None:
            """Shut all steps down: one that its broker does not answer keeps no other from it."""
            for step in reversed([step for step in parent.steps if step]):
                shut_down = getattr(step, "shutdown", None)
                if shut_down is not None:
                    ignore_errors(parent, shut_down, parent)

    def __init__(self, on_task_request: Callable[[Any], None], **kwargs: Any) -> None:
        def run_or_refuse(request: Any) -> None:
            # Also called by the timer, for tasks with an ETA or a rate limit: it logs an error of
            # code, and the message stays with the broker.
            try:
                hash(request.name)  # Celery counts by name when it is too late to refuse
                on_task_request(request)
            except reading.SYMPTOMS:
                fault = self._find_fault(request.message)
                if fault is None:
                    raise
                worker_state.requests.pop(request.id, None)
                worker_state.reserved_requests.discard(request)
                self._refuse(request.message, fault)

        super().__init__(run_or_refuse, **kwargs)
        # What kombu makes of a connection that is lost while a step publishes, as mingling does.
        self.connection_errors = (*self.conninfo.connection_errors, OperationalError)
        self.due_line = DueLine(self.pool)
        #: Whether a loop performs what `call_soon` is given.
        self.is_looping = False
        self._is_ending = False
        self._event_buffer: events.Buffer | None = None
        #: The record of the messages in flight, of this connection or the one before it.
        self._record: QoS | None = None
        #: Passes the count of messages that may be out on to the broker.
        self.prefetch: Prefetch
        self._off = settings.disabled(self.app)
        #: What our strategies could not read and Celery's could, by task.
        self._misread: dict[str, list[str]] = {}
        #: Logs that a message has been received.
        self.log_received: received.Log = received.log
        #: Why messages for some tasks go through Celery's strategies, by task.
        self._declined: dict[str, str] = {}

    def start(self) -> None:
        """Consume until the worker ends. By now the pool has been started."""
        self._turn_on("results", self._share_results)
        self._turn_on("publish", self._gather_publishing)
        self._turn_on("asyncio", self.pool.keep_coroutines_apart)
        self._turn_on("gc", lambda: collector.relax() or (lambda: collector.explain() or True))
        self._turn_on("logs", self._gather_lines)
        super().start()

    def end_in_time(self, greenlet: Greenlet) -> None:
        """See to it from now on that no silent broker holds up the end of the worker.

        Args:
            greenlet: The one that runs the worker.
        """
        if not self._is_ending:
            self._is_ending = True
            shutdown.end_in_time(self.controller, greenlet)

    def stop(self) -> None:
        """Consume no more, as the worker ends."""
        self.end_in_time(self.pool.hub.current())
        super().stop()

    def on_close(self) -> None:
        """Forget what has not started: its messages go back to the broker."""
        self.due_line.clear()
        cancel_all(self.timer)
        super().on_close()

    def _turn_on(self, piece: str, turn_on: Callable[[], Any]) -> None:
        """Turn a piece on unless it is switched off, and say what has come of it.

        ``turn_on`` returns why the piece is not on, something false, or what tells it later.
        """
        is_off = piece in self._off
        self.pool.accelerated[piece] = settings.SWITCHED_OFF if is_off else turn_on() or True

    def _share_results(self) -> str | Callable[[], Any]:
        reason = sharing.share(self.app)
        return reason or self._explain_results

    def _explain_results(self) -> str | bool:
        backend = self.app.backend
        return (isinstance(backend, RedisBackend) and backend.explain()) or True

    def _gather_publishing(self) -> str | Callable[[], Any]:
        reason = publish.gather(self.app, self.pool.hub)
        return reason or (lambda: publish.explain(self.app) or True)

    def _gather_lines(self) -> Callable[[], Any]:
        loggers = lines.gather(self.pool.hub)
        self.log_received = loggers.received
        return lambda: loggers.explain() or True

    def update_strategies(self) -> None:
        """Build a strategy for each task: ours where it does exactly what Celery's does."""
        self._turn_on("trace", self._speed_up_tracing)
        super().update_strategies()
        tracing.tell_of_functions(self.app)
        self._turn_on("strategy", self._use_strategies)

    def _speed_up_tracing(self) -> Callable[[], Any]:
        tracing.speed_up(self.app)
        return lambda: tracing.explain(self.app) or True

    def _use_strategies(self) -> dict[str, str]:
        declined = {}
        for name, task in self.app.tasks.items():
            reasons = strategy.reasons(task, self.app)
            misread = self._misread.get(name, [])
            if len(misread) >= MISREADINGS:
                reasons.append(_not_read_here(misread[-1]))
            if reasons:
                declined[name] = "; ".join(reasons)
                named = self.strategies[name]  # by the task itself, perhaps
                if type(named) is strategy.Strategy:
                    self.strategies[name] = named.__call__
            else:
                self.strategies[name] = strategy.Strategy(task, self.app, self)
        self._declined = declined
        return declined

    def start_batching(self) -> None:
        """Take messages and send events many at a time from now on, where that can be done."""
        self._turn_on("events", self._gather_events)
        self._turn_on("transport", self._start_popping)

    def _gather_events(self) -> str | Callable[[], Any]:
        gathered = events.gather(self.event_dispatcher, self.pool.hub, self._event_buffer)
        if isinstance(gathered, str):
            return gathered
        self._event_buffer = gathered
        return lambda: events.explain() or True

    def _start_popping(self) -> str | Callable[[], Any] | None:
        channel = self.task_consumer.channel
        self.pool.before_start = None
        if not isinstance(channel, (amqp.Channel, redis.Channel)):
            return f"not for the transport {self.conninfo.transport.driver_type}"
        self.pool.before_start = request.acknowledge_together
        if isinstance(channel, amqp.Channel):
            return None
        if getattr(self.app.conf, "worker_disable_prefetch", False):
            channel.qos.room = self._free_places
        elif not self.initial_prefetch_count:
            channel.qos.room = self.room
        if isinstance(channel.qos, QoS):
            channel.qos.held_by_jobs = self._held_by_jobs
            before, self._record = self._record, channel.qos
            if before is not None:
                channel.qos.succeed(before)
        channel.start_popping()
        return lambda: channel.explain() or True

    def add_task_queue(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str | None = None,
        routing_key: str | None = None,
        **options: Any,
    ) -> None:
        """Consume from one more queue, unless the broker refuses it.

        It is declared on a channel of its own first: AMQP has a broker that refuses something close
        the channel, and the one of the consumer has the messages of all tasks.
        """
        if isinstance(self.task_consumer.channel, amqp.Channel):
            queues = self.app.amqp.queues
            is_new = queue not in queues
            if is_new:
                queues.select_add(
                    queue,
                    exchange=exchange or queue,
                    exchange_type=exchange_type or "direct",
                    routing_key=routing_key,
                    **options,
                )
            try:
                with self.connection.channel() as channel:
                    queues[queue](channel).declare()
            except self.channel_errors as exc:
                logger.error("Cannot consume from %s: the broker refuses it (%s)", queue, exc)
                if is_new:
                    queues.deselect(queue)
                    queues.pop(queue)
                return
        super().add_task_queue(queue, exchange, exchange_type, routing_key, **options)

    def room(self) -> int:
        """Return how many more messages to take, where the broker sends all it has."""
        return int(self.pool.room(BACKLOG_PER_SLOT))

    def _free_places(self) -> int:
        # Celery's own rule for this setting.
        limit = getattr(self.controller, "max_concurrency", None) or self.pool.num_processes
        return int(limit) - len(worker_state.reserved_requests)

    def _held_by_jobs(self) -> set[str]:
        """Tell the delivery tags of messages whose tasks go on although the connection is lost.

        Celery puts them back as well, and they run once more. A task goes on until its job is over,
        or its termination: its message is acknowledged when its result is stored, which may wait
        for the next connection. Celery counts it as active no more.
        """
        if (
            self.controller.blueprint.state != bootsteps.RUN
            or worker_state.should_stop not in (None, False)
            or worker_state.should_terminate not in (None, False)
            or self.app.conf.worker_cancel_long_running_tasks_on_connection_loss
        ):
            return set()
        begun = [getattr(job.accept_callback, "__self__", None) for job in self.pool.begun]
        return {
            found.message.delivery_tag
            for found in (*begun, *request.terminating)
            if isinstance(found, celery_request.Request) and not found.acknowledged
        }

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Return Celery's handler for messages.

        The pool takes any number of jobs. Where the broker sends all it has, the loop takes no
        more while too many of them wait; in here, nothing else could go on meanwhile.
        """
        if not hasattr(super(), "call_soon_ack"):
            kwargs.setdefault("promise", _promise_now)
        celerys_handler: Callable[[Any], None] = super().create_task_handler(*args, **kwargs)
        strategies = self.strategies
        callbacks = self.on_task_message
        self.prefetch = Prefetch(self.qos, self.task_consumer.channel)

        def on_task_received(message: Any) -> None:
            try:
                found = strategies[message.headers["task"]]
            except (KeyError, TypeError):
                found = None
            # After a reconnect, Celery's handler restores the prefetch count step by step; not
            # while waiting tasks have raised it above the maximum.
            is_restored = (
                not self.restart_count
                or self._maximum_prefetch_restored
                or self._new_prefetch_count > self.max_prefetch_count
            )
            failure = None
            if type(found) is strategy.Strategy and is_restored:
                try:
                    if found.receive(message, callbacks):
                        return
                except strategy.ReadingError as exc:
                    failure = exc
            STRATEGY.note(self._explain_detour(found, message, is_restored, failure))
            celerys_handler(message)
            if failure is not None and not message.acknowledged:
                self._mistrust(str(failure), failure.__cause__)

        def receive_or_refuse(message: Any) -> None:
            try:
                on_task_received(message)
            except (InvalidTaskError, ContentDisallowed) as exc:
                self.on_invalid_task(None, message, exc)
            except DecodeError as exc:
                self.on_decode_error(message, exc)
            except reading.SYMPTOMS:
                fault = self._find_fault(message)
                if fault is None:
                    raise
                self._refuse(message, fault)

        return receive_or_refuse

    def _explain_detour(
        self, found: Any, message: Any, is_restored: bool, failure: Exception | None
    ) -> str:
        """Say why Celery's handler gets ``message``."""
        if "strategy" in self._off:
            return settings.SWITCHED_OFF
        if not is_restored:
            return "messages while the prefetch count is restored after a reconnect"
        if failure is not None:
            return "messages that cannot be read here"
        if type(found) is strategy.Strategy:
            return found.explain(message)
        if found is None:
            return "messages for tasks that are not registered"
        return next(
            (
                f"{name}: {reason}"
                for name, reason in self._declined.items()
                if self.strategies[name] is found
            ),
            "messages for tasks that are left to Celery",
        )

    def _find_fault(self, message: Any) -> Exception | None:
        return reading.find_fault(message, self.strategies, self.app.conf.timezone)

    def _mistrust(self, name: str, exc: Any) -> None:
        """Note that Celery has taken a message for the task ``name`` that we could not read."""
        misread = self._misread.setdefault(name, [])
        misread.append(repr(exc))
        logger.error(
            "Celery runs a task %s whose message could not be read here (%d of %d times before all "
            "of them are left to it): %r",
            name,
            len(misread),
            MISREADINGS,
            exc,
            exc_info=exc,
        )
        if len(misread) >= MISREADINGS and "strategy" not in self._off:
            self.update_strategies()

    def _refuse(self, message: Any, exc: Exception) -> None:
        """Reject a message that cannot be read, as Celery does with an invalid task."""
        logger.error(
            "Refused a message that cannot be read (%s: %s): headers=%.500r body=%.500r",
            type(exc).__name__,
            exc,
            message.headers,
            message.body,
            exc_info=logger.isEnabledFor(logging.DEBUG),
        )
        if not message.acknowledged:
            message.reject_log_error(logger, self.connection_errors)
        signals.task_rejected.send(sender=self, message=message, exc=exc)
