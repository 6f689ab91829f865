"""How a worker starts, stops, schedules and lives beside others."""

from __future__ import annotations

import signal

import pytest
from harness.journal import Journal
from harness.worker import StartWorker

pytestmark = pytest.mark.dedicated


@pytest.mark.stock_fails("celery refuses -B for its green pools")
def test_an_embedded_beat_sends_the_schedule(
    start_worker: StartWorker, own_journal: Journal
) -> None:
    worker = start_worker(options=["-B", "-s", "beat-schedule"])
    own_journal.wait_for("beat", "tick", times=3, within=10)
    worker.terminate()
    assert worker.wait_exit(within=15) == 0


def test_sigterm_finishes_what_runs_and_leaves_what_waits(
    start_worker: StartWorker, own_journal: Journal
) -> None:
    worker = start_worker(concurrency=2, settings={"worker_prefetch_multiplier": 1})
    client = worker.client
    naps = [client.signature("late_nap", (1.5,)).delay() for _ in range(2)]
    for nap in naps:
        own_journal.wait_for(nap.id, "napping")
    for _ in range(5):
        client.signature("late_nap", (0,)).delay()
    worker.terminate()
    assert worker.wait_exit(within=20) == 0
    assert [nap.get(timeout=5) for nap in naps] == ["slept"] * 2
    assert "Traceback" not in worker.output


def test_a_green_worker_for_io_runs_beside_a_prefork_worker_for_cpu(
    start_worker: StartWorker, pool: str
) -> None:
    routes = {"burn": {"queue": "cpu"}, "which_pool": {"queue": "io"}}
    settings = {"task_routes": routes}
    io = start_worker(wait=False, options=["-Q", "io"], settings=settings)
    cpu = start_worker(
        wait=False, pool="prefork", concurrency=2, options=["-Q", "cpu"], settings=settings
    )
    io.wait_ready()
    cpu.wait_ready()
    client = io.client
    burnt = [client.signature("burn", (20_000,)).delay() for _ in range(6)]
    asked = [client.signature("which_pool").delay() for _ in range(6)]
    assert {result.get(timeout=20)["node"] for result in burnt} == {cpu.node}
    assert {result.get(timeout=20)["node"] for result in asked} == {io.node}
    chained = client.signature("burn", (10,)) | client.signature("echo").set(queue="io")
    assert chained.apply_async().get(timeout=20)["total"] == 285
    assert cpu.inspect().stats()["pool"]["implementation"].endswith("prefork:TaskPool")


@pytest.mark.stock_fails(
    "the signal handler waits for the broker inside the hub, and hangs",
    pools=("eventlet",),
    brokers=("rabbitmq",),
    sometimes=True,
)
def test_sigquit_ends_a_worker_with_running_tasks(
    start_worker: StartWorker, own_journal: Journal
) -> None:
    worker = start_worker(concurrency=2)
    nap = worker.client.signature("early_nap", (60,)).delay()
    own_journal.wait_for(nap.id, "napping")
    worker.child.send_signal(signal.SIGQUIT)
    worker.wait_exit(within=8)
