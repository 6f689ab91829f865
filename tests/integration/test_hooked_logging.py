"""Whoever hooks ``logging`` sees the lines of tasks as with a stock pool, in the same order."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import StartWorker, Worker

MANY = 30
#: Ways of ``hooked.WAYS`` in which nothing is seen, on any pool.
SEE_NOTHING = {
    *(f"Handler.emit by {how}" for how in ("functools", "wrapt", "other code")),
    *("disabled loggers", "disabled lines", "loggers on another level"),
}
#: Those who are there before the worker is, each in one of its own.
BEFORE = (
    "setup_logging",
    "after_setup_logger",
    "own root handler",
    "a record factory",
    "Logger.callHandlers by functools",
    "Logger.makeRecord by wrapt",
    "Logger.handle by other code",
)
#: What differs from one run to the next.
VOLATILE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.,]\d{3}"
    r"|\d+\.\d+(e-\d+)?|0x[0-9a-f]+"
)


class Watched:
    """A worker that runs one task after the other, and what is seen of them."""

    def __init__(self, start: StartWorker, journal: Journal, pool: str, **options: Any) -> None:
        self._journal = journal
        self.worker: Worker = start(pool=pool, app="hooked", concurrency=1, **options)

    def run(self, task: str, *args: Any) -> None:
        """Have a task run; its lines have been logged on return."""
        [task_id] = self.worker.flood(task, [args])
        assert self.worker.space.redis.blpop([f"journal:{task_id}"], timeout=15), task

    def hook(self, way: str) -> list[Any]:
        """Return what is seen of some tasks, one way."""
        count = len(self._journal.entries("hooked"))
        self.run("hook", way)
        for number in range(2):
            self.run("quick", number)
        self.run("unhook")
        [seen] = self._journal.entries("hooked")[count:]
        found: list[Any] = json.loads(VOLATILE.sub("~", json.dumps(seen["seen"])))
        return found

    def lines(self) -> list[str]:
        """Return the lines of tasks in the log."""
        lines = VOLATILE.sub("~", self.worker.output).splitlines()
        return [line for line in lines if "Task " in line]

    def end(self) -> None:
        self.worker.kill()


def _stock(pool: str) -> str:
    return pool.removeprefix("hybrid.")


@pytest.mark.thorough(broker="rabbitmq")
def test_who_hooks_a_worker_that_runs_sees_what_it_sees_with_stock(
    start_worker: StartWorker, journal: Journal, pool: str
) -> None:
    found, logs = {}, {}
    for kind in (_stock(pool), pool):
        watched = Watched(start_worker, journal, kind)
        watched.run("ways")
        ways = journal.entries("ways")[-1]["ways"]
        found[kind] = {way: watched.hook(way) for way in ways}
        logs[kind] = watched.lines()
        if kind == pool:
            counts = watched.worker.pool_info()["detours"]["logs"]
        watched.end()
    differing = {
        way: (seen, found[pool][way])
        for way, seen in found[_stock(pool)].items()
        if seen != found[pool][way]
    }
    assert differing == {}
    assert {way for way, seen in found[pool].items() if not seen} == SEE_NOTHING
    assert logs[pool] == logs[_stock(pool)]
    assert sum(counts.values()) > len(ways)


@pytest.mark.thorough(broker="rabbitmq")
@pytest.mark.thorough(hook=BEFORE[1:])
@pytest.mark.parametrize("hook", BEFORE)
def test_who_is_there_before_the_worker_sees_what_it_sees_with_stock(
    start_worker: StartWorker, journal: Journal, pool: str, hook: str
) -> None:
    found, logs = {}, {}
    for kind in (_stock(pool), pool):
        watched = Watched(start_worker, journal, kind, env={"HOOK": hook})
        watched.run("quick", 1)
        watched.run("say", 2)
        if kind == pool:
            info = watched.worker.pool_info()
        watched.run("unhook")
        found[kind] = journal.entries("hooked")[-1]["seen"]
        logs[kind] = watched.lines()
        watched.end()
    expected, ours = (VOLATILE.sub("~", json.dumps(found[kind])) for kind in (_stock(pool), pool))
    assert json.loads(ours) == json.loads(expected) != []
    assert logs[pool] == logs[_stock(pool)]
    # Two lines of each of two tasks, by what is said at the moment.
    causes = info["accelerated"]["logs"].split("; ")
    counts = info["detours"]["logs"]
    assert counts.keys() == set(causes)
    assert set(counts.values()) <= {2, 4}, counts


@pytest.mark.thorough(broker="rabbitmq")
@pytest.mark.parametrize("to_file", [False, True], ids=["stderr", "file"])
def test_what_tasks_log_is_in_its_order(
    start_worker: StartWorker, tmp_path: Path, to_file: bool
) -> None:
    """Task loggers have a handler of their own, for the same place."""
    path = tmp_path / "worker.log"
    worker = start_worker(
        wait=not to_file,  # it says so in the file
        app="hooked",
        concurrency=10,
        options=["--logfile", str(path)] if to_file else [],
    )
    # Before Celery 5.7 what is sent by its name has a result, and waits for it, if not told.
    worker.flood("say", [(number,) for number in range(MANY)], ignore_result=True)

    def lines() -> list[str]:
        output = worker.output if not to_file else path.read_text() if path.exists() else ""
        said = re.findall(
            r"Task (logger|printed|warned) (\d+)$|Task (say)\[.* (succeeded)", output, re.M
        )
        return [" ".join(filter(None, parts)) for parts in said]

    expected = [
        line
        for number in range(MANY)
        for line in (f"logger {number}", f"printed {number}", f"warned {number}", "say succeeded")
    ]
    eventually(lambda: len(lines()) == len(expected), "all lines")
    assert lines() == expected
