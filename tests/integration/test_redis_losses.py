"""What a worker does on Redis survives the loss of its connections."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from celery import Celery
from harness.brokers import Brokers, Space
from harness.journal import JOURNAL, Journal
from harness.proxy import Proxy, proxied, through
from harness.versions import celery_is
from harness.waiting import eventually
from harness.worker import StartWorker, Worker, make_client

from hybrid.transports.redis import ledger

TASKS = 200

#: The script that takes messages.
POP = Path(ledger.__file__).with_name("pop.lua").read_bytes()


@pytest.fixture
def space(brokers: Brokers) -> Space:
    return brokers.space("redis")


def publish(settings: dict[str, object], tag: str, count: int = TASKS) -> None:
    client = make_client({**settings, "result_backend": None})
    try:
        with client.producer_pool.acquire() as producer:
            for number in range(count):
                client.send_task("count", (tag, number), producer=producer)
    finally:
        client.close()


@pytest.mark.parametrize("acks_late", [False, True], ids=["early", "late"])
def test_what_was_taken_without_an_answer_runs_soon_and_once(
    acks_late: bool, start_worker: StartWorker, journal: Journal, space: Space
) -> None:
    publish(space.settings, "cut")
    # Else it is the refusal of an unknown script that is cut off.
    sha = space.redis.script_load(POP)
    with proxied(urlsplit(space.redis_url).port or 6379) as proxy:
        proxy.cut_reply_to(sha.encode())
        url = through(space.redis_url, proxy.port)
        worker = start_worker(
            concurrency=20, settings={"broker_url": url, "task_acks_late": acks_late}
        )
        eventually(lambda: proxy.cut_at, "an answer to be cut off")
        ran = journal.wait_for("cut", "ran", times=TASKS, within=10)
        assert Counter(entry["number"] for entry in ran) == Counter(range(TASKS))
        eventually(lambda: not space.redis.exists("unacked", "unacked_index"), "all settled")
        assert "messages back" in worker.output


@pytest.mark.parametrize("acks_late", [False, True], ids=["early", "late"])
def test_each_acknowledged_task_runs_once_while_connections_are_killed(
    acks_late: bool, start_worker: StartWorker, journal: Journal, space: Space
) -> None:
    worker = start_worker(
        concurrency=20, settings={"task_acks_late": acks_late, "worker_prefetch_multiplier": 2}
    )
    tasks = 1500
    is_over = threading.Event()
    killed: list[str] = []

    def kill() -> None:
        while len(killed) < 25 and not is_over.wait(0.1):
            for entry in space.redis.client_list():
                # The one that all greenlets share. What BRPOP takes is lost with its connection,
                # in stock workers as well.
                if entry["cmd"] in ("evalsha", "hdel", "hset"):
                    space.redis.execute_command("CLIENT", "KILL", "ID", entry["id"])
                    killed.append(entry["cmd"])

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        publish(space.settings, "kill", tasks)
        journal.wait_for("kill", "ran", times=tasks, within=60)
    finally:
        is_over.set()
        killer.join()
    eventually(lambda: not space.redis.exists("unacked", "unacked_index"), "all settled", within=20)
    ran = Counter(entry["number"] for entry in journal.entries("kill", "ran"))
    assert len(killed) >= 5
    assert ran == Counter(range(tasks))
    assert "Traceback" not in worker.output


def kill_connections(space: Space, *kinds: str) -> None:
    """Kill all connections but those of tests and journals, or those of some kinds."""
    for entry in space.redis.client_list():
        kind = "pubsub" if "P" in entry["flags"] else "normal"
        if entry["name"] != JOURNAL and kind in (kinds or (kind,)):
            space.redis.execute_command("CLIENT", "KILL", "ID", entry["id"])


def test_tasks_that_run_when_all_connections_are_lost_run_once(
    start_worker: StartWorker, journal: Journal, space: Space
) -> None:
    worker = start_worker(concurrency=20, settings={"worker_prefetch_multiplier": 1})
    client = worker.client
    results = [client.send_task("late_nap", ("held", 5.0)) for _ in range(20)]
    journal.wait_for("held", "napping", times=20)
    kill_connections(space)
    # Behind them: it consumes again, and no more at a time than it may.
    behind = [client.send_task("late_nap", ("behind", 0.1)) for _ in range(20)]
    worker.wait_outcomes([result.id for result in (*results, *behind)], within=30)
    eventually(lambda: not space.redis.exists("unacked", "unacked_index"), "all settled")
    assert space.queue().ready() == 0
    assert len(journal.entries("held", "napping")) == 20
    assert len(journal.entries("behind", "napping")) == 20
    assert worker.client.control.ping(timeout=10, limit=1)


@pytest.fixture
def to_broker(space: Space) -> Iterator[Proxy]:
    """What stands between a worker and its broker."""
    with proxied(urlsplit(space.redis_url).port or 6379) as proxy:
        yield proxy


@pytest.fixture
def to_results(space: Space) -> Iterator[Proxy]:
    """What stands between a worker and its results."""
    with proxied(urlsplit(space.redis_url).port or 6379) as proxy:
        yield proxy


@pytest.fixture
def client(space: Space) -> Iterator[Celery]:
    """A client that goes through no proxy."""
    client = make_client(space.settings)
    yield client
    client.close()


def puts_back(worker: Worker) -> bool:
    """Tell whether a worker puts back what it can, after a loss."""
    return "Restoring" in worker.output


def has_put_back(worker: Worker) -> bool:
    """Tell whether it has, which Celery goes on to say after it."""
    said = worker.output.partition("Restoring")[2]
    # Before 5.6, Celery says nothing of the prefetch count where no task is active any more.
    return "prefetch count" in said or (
        not celery_is("5.6") and "worker_cancel_long_running_tasks_on_connection_loss" in said
    )


def all_settled(space: Space) -> bool:
    return not space.redis.exists("unacked", "unacked_index")


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "never stored"])
def test_a_task_goes_on_after_a_loss_until_its_end_is_stored(
    is_stored: bool,
    start_worker: StartWorker,
    client: Celery,
    journal: Journal,
    space: Space,
    to_broker: Proxy,
    to_results: Proxy,
) -> None:
    settings = {
        "broker_url": through(space.redis_url, to_broker.port),
        "result_backend": through(space.redis_url, to_results.port),
        "worker_prefetch_multiplier": 1,
    }
    worker = start_worker(concurrency=1, settings=settings)
    # Redis knows the script then.
    worker.wait_outcomes([client.send_task("quick", (0,)).id], within=10)
    ended = client.send_task("late_nap", ("ended", 60.0), time_limit=2)
    journal.wait_for("ended", "napping")
    to_results.hold()
    eventually(lambda: to_results.held, "its end to be stored")
    to_results.release()
    # From now on Celery says that it has ended. It stores that once more, and acknowledges then.
    eventually(lambda: "Hard time limit" in worker.output, "its end")
    to_broker.lose_all(is_refusing=not is_stored)
    eventually(lambda: puts_back(worker), "the worker to have noticed")
    if is_stored:
        eventually(lambda: worker.answers(within=1), "the next connection")
    else:
        to_results.lose_all(is_refusing=True)
        eventually(lambda: "a callback of <Job" in worker.output, "it to fail")
    to_broker.is_refusing = to_results.is_refusing = False
    to_results.release(all_of_them=True)
    behind = client.send_task("quick", (1,))
    worker.wait_outcomes([behind.id], within=20)
    eventually(lambda: all_settled(space), "all settled")
    assert worker.output.count(f"{ended.id}] received") == (1 if is_stored else 2)


@pytest.mark.skipif(
    celery_is("5.6") and not celery_is("5.7"),
    reason="Celery marks it as revoked before it terminates it, and waits for that",
)
def test_a_task_whose_termination_waits_does_not_come_again(
    start_worker: StartWorker,
    client: Celery,
    journal: Journal,
    space: Space,
    to_broker: Proxy,
    to_results: Proxy,
) -> None:
    settings = {
        "broker_url": through(space.redis_url, to_broker.port),
        "result_backend": through(space.redis_url, to_results.port),
    }
    worker = start_worker(concurrency=1, settings=settings)
    ended = client.send_task("late_nap", ("ended", 60.0))
    journal.wait_for("ended", "napping")
    to_results.hold()
    ended.revoke(terminate=True)
    eventually(lambda: "Terminating" in worker.output, "its end")
    to_broker.lose_all()
    eventually(lambda: has_put_back(worker), "the worker to have noticed")
    to_results.release(all_of_them=True)
    behind = client.send_task("quick", (1,))
    worker.wait_outcomes([behind.id], within=20)
    eventually(lambda: all_settled(space), "all settled")
    assert worker.output.count(f"{ended.id}] received") == 1


def test_a_result_is_stored_although_connections_are_lost_in_a_row(
    start_worker: StartWorker, client: Celery, space: Space, to_results: Proxy
) -> None:
    worker = start_worker(settings={"result_backend": through(space.redis_url, to_results.port)})
    worker.wait_outcomes([client.send_task("quick", (0,)).id], within=10)
    to_results.cut_reply_to(b"celery-task-meta-thrice", times=3)
    client.send_task("quick", (1,), task_id="thrice")
    outcomes = worker.wait_outcomes(["thrice"], within=10)
    assert outcomes["thrice"]["status"] == "SUCCESS"
    eventually(lambda: len(to_results.cut_at) == 3, "three answers to be cut off")
    assert "raised unexpected" not in worker.output


def test_what_is_acknowledged_before_the_next_connection_is_in_flight_no_more(
    start_worker: StartWorker, client: Celery, journal: Journal, space: Space, to_broker: Proxy
) -> None:
    settings = {
        "broker_url": through(space.redis_url, to_broker.port),
        "task_acks_late": True,
        "worker_prefetch_multiplier": 1,
    }
    worker = start_worker(concurrency=4, settings=settings)
    before = [client.send_task("spread_when_told", ("before", 1, 0)).id for _ in range(4)]
    journal.wait_for("before", "waiting", times=4)
    to_broker.lose_all(is_refusing=True)
    eventually(lambda: puts_back(worker), "the worker to have noticed")
    journal.write("before.told", "told")
    worker.wait_outcomes(before, within=10)
    to_broker.is_refusing = False
    # As many as it may have at a time: none is in flight by now.
    after = [client.send_task("quick", (number,)).id for number in range(4)]
    worker.wait_outcomes(after, within=20)
    eventually(lambda: all_settled(space), "all settled")
    assert len(journal.entries("before", "waiting")) == 4


def test_what_has_not_begun_goes_back_although_redis_was_away(
    start_worker: StartWorker, client: Celery, journal: Journal, space: Space, to_broker: Proxy
) -> None:
    settings = {
        "broker_url": through(space.redis_url, to_broker.port),
        "worker_prefetch_multiplier": 8,
    }
    worker = start_worker(concurrency=1, settings=settings)
    running = client.send_task("spread_when_told", ("running", 1, 0))
    journal.wait_for("running", "waiting")
    behind = [client.send_task("quick", (number,)) for number in range(7)]
    eventually(lambda: worker.output.count("Task quick[") == len(behind), "all to be taken")
    to_broker.lose_all(is_refusing=True)
    eventually(lambda: "Cannot connect" in worker.output, "the worker to have noticed")
    to_broker.is_refusing = False
    journal.write("running.told", "told")
    worker.wait_outcomes([one.id for one in (running, *behind)], within=20)
    eventually(lambda: all_settled(space), "all settled")


def test_tasks_that_are_killed_after_a_loss_go_back(
    start_worker: StartWorker, journal: Journal, space: Space
) -> None:
    worker = start_worker(concurrency=20, settings={"worker_prefetch_multiplier": 1})
    for _ in range(20):
        worker.client.send_task("late_nap", ("killed", 60.0))
    journal.wait_for("killed", "napping", times=20)
    kill_connections(space)
    eventually(lambda: worker.client.control.ping(timeout=1, limit=1), "it to be connected again")
    worker.child.send_signal(signal.SIGQUIT)
    assert worker.child.wait(30) is not None
    assert space.queue().ready() == 20
    assert not space.redis.exists("unacked", "unacked_index")


def test_remote_control_outlives_its_connection(start_worker: StartWorker, space: Space) -> None:
    worker = start_worker(concurrency=5)
    assert worker.client.control.ping(timeout=10, limit=1)
    kill_connections(space, "pubsub")
    eventually(lambda: worker.client.control.ping(timeout=1, limit=1), "an answer")
