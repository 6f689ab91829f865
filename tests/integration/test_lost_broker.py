"""A worker that is told to end does so, whatever its broker does."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from harness.brokers import Brokers, Space
from harness.journal import Journal
from harness.processes import Child
from harness.proxy import Proxy, proxied
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
def port(space: Space, brokers: Brokers) -> int:
    """Where the broker listens."""
    return (space.rabbit or brokers.redis).port


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    """What stands between a worker and its broker; once it is closed, nobody listens there."""
    with proxied(port) as proxy:
        yield proxy


@pytest.fixture
def through(space: Space, port: int, proxy: Proxy) -> dict[str, str]:
    """Settings with which a worker reaches its broker through the proxy."""
    broker, results = space.settings["broker_url"], space.redis_url
    there, here = f":{port}/", f":{proxy.port}/"
    return {
        "broker_url": broker.replace(there, here),
        "result_backend": results.replace(there, here),
    }


@pytest.fixture
def server(space: Space, brokers: Brokers) -> Iterator[Child]:
    """The process of the broker, which a test may stop for a while."""
    child = (space.rabbit or brokers.redis).child
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


@pytest.mark.thorough(ending="SIGTERM as SIGQUIT")
@pytest.mark.parametrize("ending", ["SIGQUIT", "SIGTERM as SIGQUIT"])
def test_a_worker_ends_that_has_never_reached_its_broker(
    start_worker: StartWorker, proxy: Proxy, through: dict[str, str], ending: str
) -> None:
    proxy.close()
    signals, code, env = ENDINGS[ending]
    worker = start_worker(wait=False, env=env, settings=through)
    eventually(lambda: has_lost_the_broker(worker), "the first attempt to connect", within=30)
    end(worker, signals)
    assert worker.wait_exit(within=15) == code


@pytest.mark.thorough(broker="redis", ending=("SIGQUIT", "SIGTERM and SIGQUIT"))
@pytest.mark.thorough(broker="rabbitmq", ending=("SIGTERM as SIGQUIT", "SIGINT twice"))
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_worker_ends_that_has_lost_its_broker_while_tasks_ran(
    start_worker: StartWorker,
    proxy: Proxy,
    through: dict[str, str],
    journal: Journal,
    ending: str,
) -> None:
    signals, code, env = ENDINGS[ending]
    worker = start_worker(env=env, settings=through, mingle=True)
    worker.flood("late_nap", [("nap", 60)] * 5)
    journal.wait_for("nap", "napping", times=5)
    proxy.close()
    eventually(lambda: has_lost_the_broker(worker), "the loss to be noticed", within=30)
    end(worker, signals)
    # Zero if the worker did not look between the two signals.
    assert worker.wait_exit(within=20) in (0, code)


@pytest.mark.thorough(broker="redis", tasks=5)
@pytest.mark.thorough(broker="rabbitmq", tasks=0)
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


@pytest.mark.thorough(broker="rabbitmq", ending="SIGINT twice")
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


def test_a_connection_that_is_lost_while_a_step_publishes_ends_no_worker(
    start_worker: StartWorker, proxy: Proxy, through: dict[str, str]
) -> None:
    worker = start_worker(app="mingling", settings=through, mingle=True)
    proxy.lose_all()
    eventually(lambda: "Broken pipe" in worker.output, "the step to fail")
    [result] = worker.wait_outcomes(worker.flood("quick", [(1,)]), within=20).values()
    assert result["result"] == 1
    assert "Unrecoverable error" not in worker.output
