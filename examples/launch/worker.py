"""A real ``celery -A … worker`` in its own process, as a user would type it."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery

from launch.errors import LaunchError
from launch.process import Child, Deadline

POOLS = ("hybrid.gevent", "gevent", "hybrid.eventlet", "eventlet", "prefork", "threads", "solo")


class Worker(Child):
    """``celery -A app worker -P pool -c concurrency``, reading one queue.

    Args:
        app: The same app, in our process, to talk to the worker with.
        module: What follows ``-A``.
        pool: What follows ``-P``.
        concurrency: What follows ``-c``.
        queue: The only queue it consumes.
        log: Where its log goes.
        env: Added to our environment.

    Raises:
        LaunchError: The package behind ``pool`` is not installed.
    """

    def __init__(
        self,
        app: Celery,
        module: str,
        *,
        pool: str,
        concurrency: int,
        queue: str,
        log: Path,
        env: Mapping[str, str],
    ) -> None:
        check_installed(pool)
        self.app = app
        self.nodename = f"{queue}@localhost"
        command = [
            *celery_command(),
            *("-A", module, "worker"),
            *("-P", pool, "-c", str(concurrency)),
            *("-Q", queue, "-n", self.nodename),
            *("--loglevel", "WARNING"),
        ]
        super().__init__(command, log, env=env, patience=10.0)

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until the worker answers ``ping``.

        Raises:
            LaunchError: It exited, or did not answer within ``timeout`` seconds.
        """
        deadline = Deadline(timeout)
        while not deadline.passed:
            self.check_alive()
            if self.app.control.ping(destination=[self.nodename], timeout=0.3):
                return
        raise LaunchError(self.describe_failure(f"did not answer a ping within {timeout:g} s"))

    def check_alive(self) -> None:
        """Raise :class:`LaunchError`, with the end of the log, if the worker has exited."""
        if self.exit_code is not None:
            raise LaunchError(self.describe_failure("exited"))

    def tasks_started(self) -> int:
        """How many tasks the worker has accepted so far, by its own count."""
        for _ in range(5):
            reply: dict[str, Any] | None = self.app.control.inspect(
                destination=[self.nodename], timeout=2.0
            ).stats()
            if reply and self.nodename in reply:
                return sum(reply[self.nodename]["total"].values())
        raise LaunchError(self.describe_failure("did not answer `inspect stats` within 10 s"))


def check_installed(pool: str) -> None:
    """Raise :class:`LaunchError` with the way out if the package behind ``pool`` is missing."""
    package, _, hub = pool.rpartition(".")
    for module, wanted in ((package, "hybrid"), (hub, "gevent"), (hub, "eventlet")):
        if module == wanted and importlib.util.find_spec(module) is None:
            name = f"celery-hybrid[{hub}]" if module == "hybrid" else module
            raise LaunchError(
                f"-P {pool}: {sys.executable} has no package {module}; "
                f"run `{sys.executable} -m pip install {name}`"
            )


def celery_command() -> list[str]:
    """Return the ``celery`` script of this interpreter, since that is what users run."""
    script = shutil.which("celery", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-m", "celery"]
