"""A worker that is told to end does so, whatever its broker does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.brokers import Brokers, MissingServerError, Space
from harness.journal import Journal
from harness.processes import Child
from harness.waiting import eventually
from harness.worker import StartWorker, Worker

#: What ends a worker at once, with the exit code of the stock pools, and what the environment says.
ENDINGS = {
    "SIGQUIT": ([signal.SIGQUIT], 0, {}),
    "SIGTERM as SIGQUIT": ([signal.SIGTERM], 0, {"REMAP_SIGTERM": "SIGQUIT"}),
    "SIGINT twice": ([signal.SIGINT, signal.SIGINT], 1, {}),
    "SIGTERM and SIGQUIT": ([signal.SIGTERM, signal.SIGQUIT], 0, {}),
}


@pytest.fixture
def brokers_of_its_own(tmp_path: Path) -> Iterator[Brokers]:
    """Servers that a test may kill."""
    started = Brokers(tmp_path / "brokers")
    yield started
    started.stop()


@pytest.fixture
def space(broker: str, brokers_of_its_own: Brokers) -> Space:
    """A space on servers of the test's own, in place of the shared ones."""
    try:
        return brokers_of_its_own.space(broker)
    except MissingServerError as exc:
        pytest.skip(str(exc))


@pytest.fixture
def server(space: Space, brokers_of_its_own: Brokers) -> Iterator[Child]:
    """The process of the broker."""
    child = (space.rabbit or brokers_of_its_own.redis).child
    yield child
    child.send_signal(signal.SIGCONT)


def end(worker: Worker, signals: list[signal.Signals]) -> None:
    """Send signals, the second one when the worker has heard the first one."""
    for number, name in enumerate(signals):
        if number:
            eventually(lambda: "Warm shutdown" in worker.output, "the first signal to be heard")
        worker.child.send_signal(name)


def has_lost_the_broker(worker: Worker) -> bool:
    return "Trying again" in worker.output


@pytest.mark.parametrize("ending", ["SIGQUIT", "SIGTERM as SIGQUIT"])
def test_a_worker_ends_that_has_never_reached_its_broker(
    start_worker: StartWorker, server: Child, ending: str
) -> None:
    server.kill()
    signals, code, env = ENDINGS[ending]
    worker = start_worker(wait=False, env=env)
    eventually(lambda: has_lost_the_broker(worker), "the first attempt to connect", within=30)
    end(worker, signals)
    assert worker.wait_exit(within=15) == code


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_worker_ends_that_has_lost_its_broker_while_tasks_ran(
    start_worker: StartWorker, server: Child, journal: Journal, ending: str
) -> None:
    signals, code, env = ENDINGS[ending]
    worker = start_worker(env=env)
    worker.flood("late_nap", [("nap", 60)] * 5)
    journal.wait_for("nap", "napping", times=5)
    server.kill()
    eventually(lambda: has_lost_the_broker(worker), "the loss to be noticed", within=30)
    end(worker, signals)
    # Zero if the worker did not look between the two signals.
    assert worker.wait_exit(within=20) in (0, code)


@pytest.mark.parametrize("tasks", [0, 5])
def test_a_worker_ends_whose_broker_is_silent(
    start_worker: StartWorker, server: Child, journal: Journal, tasks: int
) -> None:
    worker = start_worker()
    worker.flood("late_nap", [("nap", 60)] * tasks)
    if tasks:
        journal.wait_for("nap", "napping", times=tasks)
    server.send_signal(signal.SIGSTOP)
    worker.child.send_signal(signal.SIGQUIT)
    worker.wait_exit(within=45)


@pytest.mark.parametrize("ending", ["SIGINT twice", "SIGTERM and SIGQUIT"])
def test_a_cold_shutdown_puts_back_what_a_warm_one_waits_for(
    start_worker: StartWorker, space: Space, journal: Journal, ending: str
) -> None:
    signals, code, env = ENDINGS[ending]
    worker = start_worker(env=env)
    worker.flood("late_nap", [("nap", 60)] * 5)
    journal.wait_for("nap", "napping", times=5)
    end(worker, signals)
    assert worker.wait_exit(within=20) == code
    assert space.queue().ready() == 5
    assert len(journal.entries("nap", "woke")) == 0
