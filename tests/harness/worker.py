"""Real ``celery worker`` processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Callable

import celery
from celery import Celery, states

from .brokers import Space
from .processes import Child
from .waiting import eventually

SETTINGS_VARIABLE = "HYBRID_TEST_SETTINGS"
"""Environment variable in which a worker's app module finds its Celery settings, as JSON."""

TESTS = Path(__file__).resolve().parents[1]

CELERY = tuple(int(part) for part in celery.__version__.split(".")[:2])
"""The Celery release under test, as in ``(5, 7)``."""

_numbers = itertools.count(1)


class Worker:
    """One worker process, started on construction and ready when :meth:`wait_ready` returns.

    Args:
        pool: What goes behind ``-P``.
        space: Where it consumes.
        folder: Where its log goes.
        app: What goes behind ``-A``; importable from ``paths``.
        paths: Folders put on ``PYTHONPATH``.
        concurrency: What goes behind ``-c``; ``None`` leaves the option out.
        options: Further options of ``celery worker``.
        settings: Celery settings on top of those of the space.
        env: Environment variables on top of the test's own.
        loglevel: ``WARNING`` where thousands of tasks would otherwise measure the log.
        launcher: What stands before ``python``, as a tracer's own command does.
    """

    def __init__(
        self,
        pool: str,
        space: Space,
        folder: Path,
        app: str,
        paths: Iterable[Path] = (),
        concurrency: int | None = 20,
        options: Iterable[str] = (),
        settings: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        loglevel: str = "INFO",
        launcher: Iterable[str] = (),
    ) -> None:
        number = next(_numbers)
        self.pool = pool
        self.space = space
        self.node = f"w{number}@test"
        self.settings = {**space.settings, **(settings or {})}
        self._says_ready = loglevel in ("DEBUG", "INFO")
        self._is_controlled = False
        args = [
            *(*launcher, sys.executable, "-m", "celery", "-A", app, "worker"),
            *("-P", pool, "-n", self.node, "--loglevel", loglevel),
        ]
        if concurrency is not None:
            args += ["-c", str(concurrency)]
        self.child = Child(
            [*args, *options],
            log=folder / f"worker-{number}-{pool}-{space.broker}.log",
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(str(path) for path in (*paths, TESTS)),
                "PYTHONUNBUFFERED": "1",
                # Containers run the tests as root, and pickle is one of the things tested.
                "C_FORCE_ROOT": "1",
                # eventlet announces its retirement on every import.
                "PYTHONWARNINGS": "ignore::DeprecationWarning",
                SETTINGS_VARIABLE: json.dumps(self.settings),
                **(env or {}),
            },
        )
        self._client: Celery | None = None

    @property
    def client(self) -> Celery:
        """A Celery app of the test process that talks to the same space."""
        if self._client is None:
            self._client = make_client(self.settings)
        return self._client

    @property
    def output(self) -> str:
        return self.child.output()

    def flood(self, task: str, arguments: Iterable[tuple[Any, ...]], **options: Any) -> list[str]:
        """Send one task per entry of ``arguments``, as fast as one connection can; return the ids.

        Results are read with :meth:`outcomes`: subscribing to each would be the slow part.
        """
        sender = make_client({**self.settings, "result_backend": None})
        try:
            with sender.producer_pool.acquire() as producer:
                return [
                    sender.send_task(task, args, producer=producer, **options).id
                    for args in arguments
                ]
        finally:
            sender.close()

    def outcomes(self, task_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the stored result of every task that has one, by task id."""
        ids = list(task_ids)
        stored = self.space.redis.mget([f"celery-task-meta-{task_id}" for task_id in ids])
        return {task_id: json.loads(raw) for task_id, raw in zip(ids, stored) if raw is not None}

    def wait_outcomes(self, task_ids: Iterable[str], within: float) -> dict[str, dict[str, Any]]:
        """Return :meth:`outcomes` once every task is done."""
        ids = list(task_ids)
        done: dict[str, dict[str, Any]] = {}

        def all_done() -> bool:
            missing = [task_id for task_id in ids if task_id not in done]
            done.update(
                (task_id, meta)
                for task_id, meta in self.outcomes(missing).items()
                if meta["status"] in states.READY_STATES
            )
            return len(done) == len(ids)

        try:
            eventually(all_done, f"{len(ids)} results", within, every=0.05)
        except AssertionError as exc:
            raise AssertionError(f"only {len(done)} of {len(ids)} tasks ended") from exc
        return done

    def wait_ready(self, within: float = 45.0) -> Worker:
        """Return once the worker consumes, or raise with its log."""

        def ready() -> bool:
            if not self.child.running:
                raise AssertionError(
                    f"{self} ended with {self.child.exit_code} while starting:\n{self.child.tail()}"
                )
            if self._says_ready:
                return f"{self.node} ready." in self.output
            return self.answers(within=1)

        eventually(ready, f"{self} to be ready", within)
        return self

    def _wait_for_remote_control(self) -> None:
        """Green pools subscribe to commands in a greenlet, maybe after they say "ready"."""
        if not self._is_controlled:
            eventually(lambda: self.answers(within=1), f"{self} to answer a ping")
            self._is_controlled = True

    def inspect(self, timeout: float = 10.0) -> Any:
        """Celery's ``inspect`` for this node alone; unwraps to the node's own answer."""
        self._wait_for_remote_control()
        return _NodeInspect(self.client.control.inspect([self.node], timeout=timeout), self.node)

    def control(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Send one control command to this node and return its answer."""
        self._wait_for_remote_control()
        call = getattr(self.client.control, method)
        replies = call(*args, destination=[self.node], reply=True, timeout=10, **kwargs)
        assert replies, f"{self} did not answer {method}"
        return replies[0][self.node]

    def answers(self, within: float = 5.0) -> bool:
        try:
            return self.child.running and bool(
                self.client.control.ping([self.node], timeout=within)
            )
        except OSError:  # on the client's own connection, which says nothing of the worker
            return False

    def pool_info(self) -> dict[str, Any]:
        info: dict[str, Any] = self.inspect().stats()["pool"]
        return info

    def stop(self, within: float = 20.0) -> int:
        """Warm shutdown; killed when it takes longer than ``within``."""
        self.close()
        return self.child.stop(within)

    def kill(self) -> None:
        """``kill -9``."""
        self.close()
        self.child.kill()

    def terminate(self) -> None:
        """Send SIGTERM and return at once."""
        self.child.send_signal(signal.SIGTERM)

    def wait_exit(self, within: float) -> int:
        code = self.child.wait(within)
        assert code is not None, f"{self} still runs after {within:g} s:\n{self.child.tail()}"
        return code

    def close(self) -> None:
        if self._client is not None:
            close_client(self._client)
            self._client = None

    def __enter__(self) -> Worker:
        return self.wait_ready()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not None:
            print(f"--- {self.child.log}\n{self.child.tail()}")
        self.stop(within=8 if kind is None else 2)

    def __repr__(self) -> str:
        return f"<worker {self.node} -P {self.pool} on {self.space.broker}>"


StartWorker = Callable[..., Worker]
"""What the fixture ``start_worker`` gives: the arguments of :class:`Worker`, all optional.

``wait=False`` returns before the worker is ready; with ``mingle=True`` it asks others first.
"""

WorkersIn = Callable[[Space], "contextlib.AbstractContextManager[StartWorker]"]
"""Opens a block in which such a function starts workers in a space."""

SettingsFor = Callable[[str], dict[str, Any]]
"""From the name of a pool to Celery settings."""


@contextlib.contextmanager
def workers(settings_for: SettingsFor, **defaults: Any) -> Iterator[StartWorker]:
    """Give a function that starts workers, which end with the block.

    Args:
        settings_for: What workers on a pool run with, under the settings of a call.
        defaults: Arguments of :class:`Worker` for which a call may have others.
    """
    started: list[Worker] = []

    def start(wait: bool = True, mingle: bool = False, **options: Any) -> Worker:
        options = {**defaults, **options}
        options["settings"] = {**settings_for(options["pool"]), **(options.get("settings") or {})}
        if not mingle:  # a second of waiting for other workers
            options["options"] = ["--without-mingle", *options.get("options", ())]
        worker = Worker(**options)
        started.append(worker)
        return worker.wait_ready() if wait else worker

    try:
        yield start
    finally:
        for worker in started:
            # How a worker ends has its own tests; a warm shutdown of each would take minutes.
            worker.kill()


class _NodeInspect:
    def __init__(self, inspect: Any, node: str) -> None:
        self._inspect = inspect
        self._node = node

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inspect, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            replies = method(*args, **kwargs)
            assert self._node in (replies or {}), f"{self._node} did not answer {name}"
            return replies[self._node]

        return call


def make_client(settings: Mapping[str, Any]) -> Celery:
    """Return an app for the test process; it knows tasks by name only."""
    client = Celery("client", set_as_current=False)
    client.conf.update(settings)
    return client


def close_client(client: Celery) -> None:
    """Close what the app holds open, so that no socket is left to the garbage collector."""
    backend = client.backend
    # Results that outlive the client, as in the traceback of a failed test, have nothing left to
    # unsubscribe from when they are collected.
    backend.remove_pending_result = lambda result: result
    consumer = getattr(backend, "result_consumer", None)
    if consumer is not None:
        consumer.stop()
    pool = getattr(getattr(backend, "client", None), "connection_pool", None)
    if pool is not None:
        pool.disconnect()
    client.close()


def running(worker: Worker) -> int:
    """Return how many slots are busy, on hybrid and stock pools alike."""
    info = worker.pool_info()
    if "running" in info:
        return int(info["running"])
    return len(worker.inspect().active())
