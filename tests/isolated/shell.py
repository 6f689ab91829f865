"""Processes that are started the way users start them, in environments of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery
from harness.brokers import Space
from harness.processes import Child
from harness.waiting import eventually
from harness.worker import close_client, make_client
from venvs import Venv

APPS = Path(__file__).resolve().parent / "apps"

SOCKETS = {"gevent": "gevent._socket3", "eventlet": "eventlet.greenio.base"}
"""Where the class of sockets comes from once the standard library is patched."""


@dataclass
class Finished:
    """A process that has ended, with what it took."""

    code: int
    stdout: str
    stderr: str
    #: Processor time: unlike the wall clock, it says the same on a busy machine.
    cpu_seconds: float
    wall_seconds: float

    def stopped_with_one_sentence(self, *parts: str) -> None:
        """Check that it refused to start, quickly, and said in one line what to type."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        assert len(lines) == 1, self.stderr
        assert self.code == 1
        for part in parts:
            assert part in lines[0]
        assert "ready." not in self.stdout
        assert self.cpu_seconds < 2
        assert self.wall_seconds < 10


class Started:
    """A worker that was started in some way, and is ready when :meth:`ready` returns."""

    def __init__(self, child: Child, node: str, space: Space, client: Celery) -> None:
        self.child = child
        self.node = node
        self.space = space
        self.client = client
        self._began = time.monotonic()

    def ready(self) -> Started:
        """Wait until the worker answers a ping."""

        bindings = f"_kombu.binding.{self.space.settings['control_exchange']}.pidbox"

        def answers() -> bool:
            code = self.child.exit_code
            assert code is None, f"the worker ended with {code}:\n{self.child.output()}"
            # kombu waits for whole seconds, so the first ping had better not be too early.
            listens = any(
                self.node.encode() in name for name in self.space.redis.smembers(bindings)
            )
            return listens and bool(self.client.control.ping([self.node], timeout=1))

        eventually(answers, f"{self.node} to answer", within=15)
        self.seconds_to_answer = time.monotonic() - self._began
        return self

    def pool_stats(self) -> dict[str, Any]:
        stats = self.client.control.inspect([self.node], timeout=10).stats()
        pool: dict[str, Any] = stats[self.node]["pool"]
        return pool

    def call(self, name: str, *args: Any) -> Any:
        """Run a task of the project."""
        return self.client.signature(name, args).delay().get(timeout=10)

    @property
    def sockets(self) -> list[str]:
        """What the project saw each time it was imported."""
        return re.findall(r"^proj sees (\S+)$", self.child.output(), re.MULTILINE)


class Shell:
    """Starts processes in one folder, with one broker and a user's environment."""

    def __init__(self, folder: Path, space: Space) -> None:
        self.folder = folder
        self.space = space
        self.client = make_client(space.settings)
        self._children: list[Child] = []

    def environment(
        self, venv: Venv, env: Mapping[str, str], settings: Mapping[str, Any]
    ) -> dict[str, str]:
        paths = [str(APPS), *filter(None, [env.get("PYTHONPATH")])]
        return {
            "PATH": f"{venv.bin}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "PROJ_SETTINGS": json.dumps({**self.space.settings, **settings}),
            # Containers run tests as root, which Celery warns of; and eventlet announces its
            # retirement to whoever imports it.
            "C_FORCE_ROOT": "1",
            "PYTHONWARNINGS": "ignore:You're running the worker,ignore:::hybrid.patches.monkey",
            "PYTHONUNBUFFERED": "1",
            **env,
            "PYTHONPATH": os.pathsep.join(paths),
        }

    def run(
        self,
        venv: Venv,
        *args: str,
        env: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        within: float = 30,
    ) -> Finished:
        """Run a command to its end."""
        before, began = _children_cpu_seconds(), time.monotonic()
        done = subprocess.run(
            [str(venv.bin / args[0]), *args[1:]],
            cwd=self.folder,
            env=self.environment(venv, env or {}, settings or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
        )
        return Finished(
            done.returncode,
            done.stdout,
            done.stderr,
            _children_cpu_seconds() - before,
            time.monotonic() - began,
        )

    def start(
        self,
        venv: Venv,
        *args: str,
        env: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        quick: bool = True,
    ) -> Started:
        """Start a worker in the background.

        Args:
            venv: Where.
            args: The command line; a node name is appended.
            env: Environment variables on top of the usual ones.
            settings: Celery settings on top of the broker's.
            quick: Leave out Celery's second of waiting for other workers.
        """
        node = f"w{len(self._children)}@test"
        args = (*args, "-n", node, *(["--without-mingle", "--without-gossip"] if quick else []))
        child = Child(
            [str(venv.bin / args[0]), *args[1:]],
            log=self.folder / f"{node}.log",
            env=self.environment(venv, env or {}, settings or {}),
            cwd=self.folder,
        )
        self._children.append(child)
        return Started(child, node, self.space, self.client)

    @staticmethod
    def signal(pid: int, number: int) -> None:
        """Send a signal to a process that is no child of ours any more."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def close(self) -> None:
        for child in self._children:
            child.kill()
        close_client(self.client)


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
