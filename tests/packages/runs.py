"""Runs a project on one pool: sends its tasks, ends its worker, and returns the effects."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from effects import Effect, name_spans, read
from harness.brokers import Space
from harness.waiting import eventually
from harness.worker import Worker

PROJECTS = Path(__file__).parent / "projects"
BIN = Path(sys.executable).parent

#: How many of each task, and which tasks come of one.
EACH = 12
SLOTS = 10
COMES_OF = {
    "again": {"again": 2},
    "publish": {"publish": 1, "add": 2},
    "together": {"together": 1, "add": 2, "gather": 1},
    "order": {"order": 1, "add": 1},
    "send_twice": {"send_twice": 1, "once": 1, "single": 1},
}
COMMON = ("add", "fail", "again", "log", "wait", "publish", "together")


@dataclass(frozen=True)
class Difference:
    """Effects that stock and ours need not have in common."""

    what: str
    why: str
    concerns: Callable[[Effect], bool]


@dataclass(frozen=True)
class Project:
    """One package in one small project.

    Args:
        name: How tests name it.
        module: What goes behind ``-A``.
        needs: The modules it imports; without them the test skips.
        tasks: What is sent, ``EACH`` of each.
        launcher: What stands before the worker's command line.
        options: Further options of the worker.
        environment: Gives environment variables, for a folder.
        ask: Returns effects that are in a database or a broker, when the worker has ended.
        differences: What may differ, and why.
    """

    name: str
    module: str
    needs: tuple[str, ...]
    tasks: tuple[str, ...] = COMMON
    launcher: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    environment: Callable[[Path], Mapping[str, str]] = lambda folder: {}
    ask: Callable[[Run], list[Effect]] = lambda run: []
    differences: tuple[Difference, ...] = ()

    def __str__(self) -> str:
        return self.name

    def may_differ(self, effect: Effect) -> bool:
        """Tell whether a row of the table names ``effect``."""
        return any(row.concerns(effect) for row in self.differences)


@dataclass
class Run:
    """A project's worker on one pool, from its start to the effects it leaves."""

    project: Project
    pool: str
    space: Space
    folder: Path
    worker: Worker = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.worker = Worker(
            self.pool,
            self.space,
            self.folder,
            self.project.module,
            [PROJECTS],
            concurrency=SLOTS,
            launcher=[str(BIN / word) for word in self.project.launcher[:1]]
            + list(self.project.launcher[1:]),
            options=["--without-mingle", *self.project.options],
            settings={"broker_connection_retry_on_startup": True},
            env={
                "HYBRID_TEST_EFFECTS": str(self.file),
                # ddtrace gives one tag two values, in the order of a set.
                "PYTHONHASHSEED": "0",
                "HYBRID_TEST_REDIS": self.space.redis_url,
                **self.project.environment(self.folder),
            },
        )

    @property
    def file(self) -> Path:
        return self.folder / "effects"

    def send(self) -> None:
        """Send the project's tasks, and return when all that comes of them has begun."""
        expected: Counter[str] = Counter()
        for task in self.project.tasks:
            self.worker.flood(task, [(number,) for number in range(EACH)])
            for name, times in COMES_OF.get(task, {task: 1}).items():
                expected[name] += times * EACH
        eventually(
            lambda: self._ran() >= expected,
            f"{self.worker} to run {expected}, not {self._ran()}",
            within=90,
        )

    def _ran(self) -> Counter[str]:
        return Counter(effect["task"] for effect in read(self.file) if effect["kind"] == "ran")

    def end(self) -> list[Effect]:
        """End the worker as a supervisor does, and return what is left of its work.

        It is idle by then: what a stock worker forgets when it is stopped at work is no effect.
        """
        eventually(lambda: not self.worker.inspect().active(), f"{self.worker} to be idle")
        code = self.worker.stop(within=30)
        return [
            *name_spans(read(self.file)),
            {"kind": "exit", "code": code},
            {"kind": "left", "ready": self.worker.space.queue().ready()},
            *self.project.ask(self),
        ]
