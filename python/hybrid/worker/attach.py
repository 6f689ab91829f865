"""Attaches our pieces to the Celery workers that run on our pools.

Celery's signals tell when a worker is being built: no setting of the user's is changed, and
a worker on another pool in the same process is left alone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import Any, Callable
from weakref import WeakSet

from celery import concurrency, platforms, signals
from celery.app.backends import BACKEND_ALIASES
from celery.apps import worker as celery_worker
from celery.exceptions import ImproperlyConfigured
from celery.platforms import EX_FAILURE
from celery.utils.log import get_logger
from kombu import pools as kombu_pools
from kombu import transport as kombu_transport
from kombu.transport import TRANSPORT_ALIASES

from hybrid import hubs
from hybrid.hubs.base import Greenlet
from hybrid.patches import celery as celery_patches
from hybrid.patches import kombu as kombu_patches
from hybrid.worker import settings
from hybrid.worker.execution.pool import TaskPool
from hybrid.worker.shutdown import ColdShutdown

logger = get_logger("celery.worker")

STOCK_CONSUMER = "celery.worker.consumer:Consumer"
HYBRID_CONSUMER = "hybrid.worker.consuming.consumer:Consumer"
STOCK_BEAT = "celery.worker.components:Beat"
HYBRID_BEAT = "hybrid.worker.beat:Beat"
#: kombu's names of transports, and ours for the same.
TRANSPORTS = {
    **dict.fromkeys(("redis", "rediss"), "hybrid.transports.redis:Transport"),
    **dict.fromkeys(("amqp", "pyamqp"), "hybrid.transports.amqp:Transport"),
    "amqps": "hybrid.transports.amqp:SSLTransport",
}
STOCK_TRANSPORTS = {name: TRANSPORT_ALIASES[name] for name in TRANSPORTS}
#: Celery's names of result backends, and ours for the same.
BACKENDS = dict.fromkeys(("redis", "rediss"), "hybrid.backends.redis:RedisBackend")
STOCK_BACKENDS = {name: BACKEND_ALIASES[name] for name in BACKENDS}

#: Workers for which nobody has said how many tasks to run at a time.
_unsized: WeakSet[Any] = WeakSet()


def attach() -> None:
    """Listen for workers being built, and let them find our transports and backends."""
    kombu_patches.TRANSPORTS.replace_items(TRANSPORT_ALIASES, TRANSPORTS)
    celery_patches.BACKENDS.replace_items(BACKEND_ALIASES, BACKENDS)
    signals.celeryd_init.connect(_on_options, weak=False, dispatch_uid="hybrid.options")
    signals.worker_init.connect(_on_worker, weak=False, dispatch_uid="hybrid.worker")
    signals.celeryd_after_setup.connect(_on_logging, weak=False, dispatch_uid="hybrid.logging")


def _leave_transports_to_kombu() -> None:
    kombu_patches.TRANSPORTS.replace_items(TRANSPORT_ALIASES, STOCK_TRANSPORTS)
    kombu_patches.TRANSPORTS_FOUND.drop_items(kombu_transport._transport_cache, STOCK_TRANSPORTS)


def _pool_class(worker: Any) -> type[TaskPool] | None:
    cls = concurrency.get_implementation(worker.pool_cls)
    return cls if isinstance(cls, type) and issubclass(cls, TaskPool) else None


def _on_options(instance: Any, conf: Any, options: dict[str, Any], **_: Any) -> None:
    if not (options.get("concurrency") or options.get("autoscale") or conf.worker_concurrency):
        _unsized.add(instance)


def _on_worker(sender: Any, **_: Any) -> None:
    if _pool_class(sender) is None:
        return
    try:
        off = settings.disabled(sender.app)
    except ImproperlyConfigured as exc:
        # Celery logs what its signals' receivers raise, and goes on.
        raise SystemExit(f"celery worker: {exc}") from exc
    if "transport" in off:
        _leave_transports_to_kombu()
    if "results" in off:
        celery_patches.BACKENDS.replace_items(BACKEND_ALIASES, STOCK_BACKENDS)
    if sender.consumer_cls == STOCK_CONSUMER:
        celery_patches.CONSUMER.replace(sender, HYBRID_CONSUMER)
    blueprint = sender.Blueprint
    if STOCK_BEAT in blueprint.default_steps:
        steps = blueprint.default_steps - {STOCK_BEAT} | {HYBRID_BEAT}
        ours = type(blueprint.__name__, (blueprint,), {"default_steps": steps})
        celery_patches.BLUEPRINT.replace(sender, ours)
    if not isinstance(platforms.signals, _GreenSignals):
        celery_patches.SIGNALS.specialise(platforms.signals, _GreenSignals)
    celery_patches.SIGNALS_ENDING.replace(platforms.signals, _Ending(sender))
    celery_patches.RESTART.replace(celery_worker, partial(_start_again, sender))
    app = sender.app
    hubs.on_fork(lambda: _forget(app))


def _start_again(worker: Any) -> None:
    """Become what was started, after SIGHUP. Called at the exit of the process.

    Celery runs ``sys.argv`` as a script, which ``python -m celery`` is not, and what else is to be
    called at the exit never is: the state of ``--statedb`` is not written.
    """
    persistence = getattr(worker, "_persistence", None)
    if persistence is not None:
        persistence.save()
    platforms.close_open_fds([sys.__stdin__, sys.__stdout__, sys.__stderr__])
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


#: What a child has of its parent's, and does not end.
_kept: list[Any] = []


def _forget(app: Any) -> None:
    """Let a forked child open connections of its own, and end by signals as any process.

    What the parent has opened is not closed: closing tells the other side, or shuts a socket down
    that is the parent's, too.
    """
    pools = [app._pool, app.amqp.__dict__.get("_producer_pool")]
    for group in (kombu_pools.connections, kombu_pools.producers):
        pools += group.values()
        group.clear()
    pools += [getattr(pool, "connections", None) for pool in pools]
    _kept.append((pools, app._local, getattr(app, "_backend_cache", None)))
    for pool in filter(None, pools):
        # billiard's children close pools, with their connections.
        kombu_patches.CLOSE_POOL.replace(pool, _do_nothing)
    # What Celery does in the children of its own pools. It leaves the result backend to be reset
    # by the next fork, and that is ours.
    app._after_fork()
    app._backend_cache, app._local = None, threading.local()
    for number in _GreenSignals.ENDING:
        handler = signal.getsignal(number)
        if str(getattr(handler, "__module__", "")).partition(".")[0] in ("celery", "hybrid"):
            with suppress(ValueError):  # not in the main thread
                signal.signal(number, signal.SIG_DFL)


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


def _on_logging(instance: Any, **_: Any) -> None:
    pool = _pool_class(instance)
    if pool is not None and instance in _unsized:
        _unsized.discard(instance)
        logger.warning(
            "%s: started without -c, so it runs %d tasks at a time, one for each CPU. That is a "
            "poor choice for a green pool, whose tasks mostly wait: start the worker with "
            '"-P %s -c 1000"',
            pool.spelling,
            instance.concurrency,
            pool.spelling,
        )


class _Ending:
    """What is known of the end of a worker: its greenlet, and the shutdowns that go on."""

    def __init__(self, worker: Any) -> None:
        #: The worker that the handlers belong to, and the greenlet that runs it.
        self.worker = worker
        self.greenlet: Greenlet | None = None
        self.cold: ColdShutdown | None = None

    def watch(self) -> None:
        """See to it that no silent broker holds the worker up. Runs in the hub."""
        consumer = getattr(self.worker, "consumer", None)
        # A consumer of the user's own may be Celery's.
        end_in_time = getattr(consumer, "end_in_time", None)
        if end_in_time is not None:
            end_in_time(self.greenlet)


class _GreenSignals(platforms.Signals):  # type: ignore[misc]
    """Runs Celery's handlers for the signals that end a worker in greenlets.

    Python runs a signal handler on top of whatever is running, which mostly is the hub. The
    handlers for a soft or cold shutdown wait, and nothing may wait in the hub.
    """

    ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP})

    ending: _Ending

    def __setitem__(self, name: Any, handler: Any) -> None:
        if callable(handler) and self.signum(name) in self.ENDING:
            if self.ending.greenlet is None:
                self.ending.greenlet = self.ending.worker.pool.hub.current()
            handler = self._in_greenlet(handler)
        super().__setitem__(name, handler)

    def _in_greenlet(self, handler: Callable[..., object]) -> Callable[..., None]:
        is_cold = getattr(handler, "__name__", "") == "worker_Cold"
        worker_pid = os.getpid()

        def run_in_greenlet(*args: Any) -> None:
            if os.getpid() != worker_pid:
                # A forked child is told to end before it has forgotten what is its parent's.
                signal.signal(args[0], signal.SIG_DFL)
                os.kill(os.getpid(), args[0])
                return
            worker = self.ending.worker
            hub = worker.pool.hub
            run = partial(_say_and_do, handler, *args)
            if args[0] == signal.SIGINT:
                # Celery's handler for the second one forgets it if nobody has looked in between.
                worker.exitcode = EX_FAILURE
            if is_cold:
                hub.call_soon_threadsafe(self._end, run)
            else:
                hub.call_soon_threadsafe(hub.spawn, run)
                hub.call_soon_threadsafe(self.ending.watch)

        return run_in_greenlet

    def _end(self, run: Callable[[], object]) -> None:
        """Begin a cold shutdown; do what another signal asks for when there is one. In the hub."""
        ending = self.ending
        if ending.cold is None:
            assert ending.greenlet is not None  # it has set the handlers
            ending.cold = ColdShutdown(ending.worker, ending.greenlet, run)
            ending.cold.start()
            ending.watch()
        elif ending.cold.is_waiting:
            # Celery has not changed its handlers yet, so this one is the same.
            ending.cold.hurry()
        else:
            ending.worker.pool.hub.spawn(run)


def _say_and_do(handler: Callable[..., object], *args: Any) -> None:
    """Run one of Celery's handlers, which first say on the terminal what they are going to do."""
    try:
        handler(*args)
    except OSError:
        # eventlet cannot write to what is no terminal any more, /dev/null for one. The worker has
        # to end all the same.
        sys.__stdout__, terminal = None, sys.__stdout__  # type: ignore[misc]
        try:
            handler(*args)
        finally:
            sys.__stdout__ = terminal  # type: ignore[misc]
