"""Counts what a task costs a worker, where a loaded machine has no time to measure.

``instructions``: machine instructions of the worker in user space, counted by valgrind. ``stays``:
calls of Python functions in our files, and in all files, counted by ``sys.setprofile``. Both are of
a real worker on a real broker: it is warm, does some tasks, then many more, and what these cost
more is divided by how many there were more. ``alone`` sends one after the other, each when the one
before is done, so that nothing is shared.

    python benches/instructions.py publish10 results --broker redis --before OTHER_PYTHON
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benches.e2e import cell
from benches.e2e.scenarios import (
    BEFORE,
    DRAIN,
    PUBLISHED_PER_TASK,
    SCENARIOS,
    STAYS_VARIABLE,
    Scenario,
)
from benches.e2e.servers import servers, utc

SECONDS = 300.0
"""For a load, at most: valgrind takes fifty times as long."""

FEW, MANY = 500, 4000
"""Tasks before and after; of those that publish ten each, a tenth."""


class Counted(cell.Cell):
    """A worker that is idle, given a number of tasks, and idle again."""

    def fill(self, begin: int, end: int) -> None:
        """Have it do the tasks from ``begin`` up to, but not including, ``end``."""
        soon = utc(time.time() + 0.5) if self.scenario.kind == "eta" else None
        self.broker.fill(range(begin, end), eta=soon)
        deadline = time.monotonic() + SECONDS
        if not self.wait_until(lambda: self.is_settled_from(begin, end), deadline, every=0.02):
            raise cell.CellError("not done in time")
        time.sleep(0.5 if end - begin > 1 else 0.01)  # for what the worker does behind its tasks

    def is_settled_from(self, begin: int, end: int) -> bool:
        if self.ledger.done(begin, end) < end - begin or self.broker.held():
            return False
        if self.scenario.results and self.bench.results.results() < self._warm + end:
            return False
        published = PUBLISHED_PER_TASK * (end + self._warm)
        return self.scenario.task != "publish10" or self.broker.waiting(DRAIN) >= published

    @property
    def pid(self) -> int:
        assert self._worker is not None
        return self._worker.pid


def instructions(bench: cell.Bench, scenario: Scenario, pool: str) -> float:
    """Return how many instructions a task costs."""
    out = bench.folder / "callgrind"
    under = (
        *("valgrind", "-q", "--tool=callgrind", "--instr-atstart=no"),
        f"--callgrind-out-file={out}",
    )
    few, many = _counts(scenario)
    with Counted(replace(bench, under=under), scenario, pool, many + 2 * few) as counted:
        counted.warm_up()

        def cost(begin: int, end: int) -> int:
            _ask_valgrind(counted.pid, "zero")
            counted.fill(begin, end)
            for old in bench.folder.glob("callgrind.*"):
                old.unlink()
            _ask_valgrind(counted.pid, "dump")
            [dump] = bench.folder.glob("callgrind.*")
            found = re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.MULTILINE)
            assert found is not None
            return int(found[1])

        counted.fill(0, few)
        _ask_valgrind(counted.pid, "instrumentation", "on")
        least = cost(few, 2 * few)
        return (cost(2 * few, many + 2 * few) - least) / (many - few)


def _counts(scenario: Scenario) -> tuple[int, int]:
    if scenario.task == "publish10":
        return FEW // PUBLISHED_PER_TASK, MANY // PUBLISHED_PER_TASK
    return FEW, MANY


def _ask_valgrind(pid: int, *command: str) -> None:
    subprocess.run(
        ["vgdb", f"--pid={pid}", "--wait=10", *command], check=True, capture_output=True, timeout=60
    )


def stays(bench: cell.Bench, scenario: Scenario, pool: str, alone: bool) -> dict[str, float]:
    """Return how many calls a task costs, by function of ours, and altogether."""
    path = bench.folder / "stays"
    few, many = _counts(scenario)
    count = 50 if alone else many
    with (
        _environment(STAYS_VARIABLE, str(path)),
        Counted(replace(bench, app="benches.e2e.stays"), scenario, pool, few + count) as counted,
    ):
        counted.warm_up()
        counted.fill(0, few)
        before = _look(counted.pid, path)
        if alone:
            for number in range(few, few + count):
                counted.fill(number, number + 1)
        else:
            counted.fill(few, few + count)
        after = _look(counted.pid, path)
    after.subtract(before)
    return {name: calls / count for name, calls in after.items() if calls}


def _look(pid: int, path: Path) -> Counter[str]:
    path.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    while not path.exists():
        time.sleep(0.01)
    found = json.loads(path.read_text())
    ours: dict[str, int] = found["ours"]
    return Counter({"all files": found["all"], "our files": sum(ours.values()), **ours})


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


COUNTS: dict[str, Callable[[cell.Bench, Scenario, str], Any]] = {
    "instructions": instructions,
    "stays": lambda bench, scenario, pool: stays(bench, scenario, pool, alone=False),
    "alone": lambda bench, scenario, pool: stays(bench, scenario, pool, alone=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("scenarios", nargs="+", choices=[*SCENARIOS], metavar="SCENARIO")
    parser.add_argument("--broker", choices=("redis", "rabbitmq"), default="redis")
    parser.add_argument("--pools", type=lambda text: text.split(","), default=["hybrid.gevent"])
    parser.add_argument("--count", type=lambda text: text.split(","), default=[*COUNTS])
    parser.add_argument("--before", metavar="PYTHON", help="with another celery-hybrid")
    parser.add_argument("--functions", type=int, default=0, help="show as many, of ours")
    options = parser.parse_args()
    cell.BOOT_SECONDS = SECONDS
    os.environ["PYTHONHASHSEED"] = "0"
    with (
        tempfile.TemporaryDirectory(prefix="hybrid-bench-") as folder,
        servers(Path(folder) / "servers", options.broker) as (broker, results),
    ):
        bench = cell.Bench(
            broker=broker,
            results=results,
            ports=(broker.port, results.port),
            proxy=None,
            folder=Path(folder),
            seconds=SECONDS,
            before=options.before,
        )
        for name in options.scenarios:
            for pool in options.pools:
                for which in [pool + BEFORE, pool] if options.before else [pool]:
                    for kind in options.count:
                        found = COUNTS[kind](bench, SCENARIOS[name], which)
                        show(f"{name} {options.broker} {which} {kind}", found, options.functions)


def show(what: str, found: Any, functions: int) -> None:
    if not isinstance(found, dict):
        print(f"{what}: {found:,.0f}", flush=True)
        return
    print(f"{what}: {found.pop('our files'):.1f} of {found.pop('all files'):.1f}", flush=True)
    for name, calls in sorted(found.items(), key=lambda one: -one[1])[:functions]:
        print(f"    {calls:7.2f}  {name}")


if __name__ == "__main__":
    main()
