"""What Redis refuses for a while costs no message, and the worker goes on when it is set right."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
import redis
from harness.brokers import RedisServer, Space
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import StartWorker, Worker, make_client

MESSAGES = 100


@pytest.fixture
def space(open_space: Callable[[str], Space]) -> Space:
    return open_space("redis")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis whose settings are this test's own."""
    server = RedisServer(tmp_path / "redis")
    yield server
    server.stop()


def publish(settings: dict[str, object], queue: str, tag: str, count: int = MESSAGES) -> None:
    client = make_client({**settings, "result_backend": None})
    try:
        with client.producer_pool.acquire() as producer:
            for number in range(count):
                client.send_task("count", (tag, number), producer=producer, queue=queue)
    finally:
        client.close()


def assert_each_ran_once(journal: Journal, tag: str, count: int = MESSAGES) -> None:
    ran = journal.wait_for(tag, "ran", times=count, within=20)
    assert sorted(entry["number"] for entry in ran) == list(range(count))


def assert_it_ends(worker: Worker) -> None:
    worker.terminate()
    assert worker.wait_exit(within=20) == 0
    assert "Traceback" not in worker.output


def test_a_queue_key_of_another_type_costs_no_other_queue_anything(
    start_worker: StartWorker, journal: Journal, space: Space
) -> None:
    space.redis.set("b", "somebody else's")
    publish(space.settings, "a", "in a")
    publish(space.settings, "c", "in c")
    worker = start_worker(options=["-Q", "a,b,c"])
    assert_each_ran_once(journal, "in a")
    assert_each_ran_once(journal, "in c")
    publish(space.settings, "c", "while idle", count=5)
    assert_each_ran_once(journal, "while idle", count=5)
    assert space.redis.get("b") == b"somebody else's"
    assert worker.output.count("The key 'b' of the queue b is a string") == 1

    space.redis.delete("b")
    publish(space.settings, "b", "in b")
    assert_each_ran_once(journal, "in b")
    assert_it_ends(worker)


@pytest.mark.parametrize("key", ["unacked", "unacked_index"])
def test_messages_that_cannot_be_recorded_stay_in_their_queue(
    key: str, start_worker: StartWorker, journal: Journal, space: Space
) -> None:
    space.redis.set(key, "somebody else's")
    publish(space.settings, "a", "jobs")
    worker = start_worker(options=["-Q", "a"])
    eventually(lambda: f"{key} is a string, not a" in worker.output, "an error that says why")
    # An idle worker takes one message as kombu does, before it tries to record it.
    assert space.redis.llen("a") >= MESSAGES - 1

    space.redis.delete(key)
    assert_each_ran_once(journal, "jobs")
    assert worker.output.count(f"{key} is a string, not a") == 1
    assert_it_ends(worker)
    assert not space.redis.exists("a", "unacked", "unacked_index")


def test_a_full_server_gives_what_it_has(
    start_worker: StartWorker, journal: Journal, own_server: RedisServer
) -> None:
    url = own_server.new_database()
    with redis.Redis.from_url(url) as plain:
        worker = start_worker(settings={"broker_url": url}, options=["-Q", "a"])
        os.kill(worker.child.pid, signal.SIGSTOP)
        publish(worker.settings, "a", "jobs")
        plain.config_set("maxmemory-policy", "noeviction")
        plain.config_set("maxmemory", "1mb")
        with pytest.raises(redis.OutOfMemoryError):
            plain.set("more", "of it")
        os.kill(worker.child.pid, signal.SIGCONT)
        assert_each_ran_once(journal, "jobs")

        plain.config_set("maxmemory", 0)
        publish(worker.settings, "a", "later")
        assert_each_ran_once(journal, "later")
        assert_it_ends(worker)
        assert not plain.exists("a", "unacked", "unacked_index")


def refused(client: redis.Redis) -> int:
    """Return how many commands a server has refused so far because it is full."""
    found = client.info("errorstats").get("errorstat_OOM", {"count": 0})
    return int(found["count"])


def test_a_full_server_ends_no_remote_control(
    start_worker: StartWorker, own_server: RedisServer
) -> None:
    url = own_server.new_database()
    with redis.Redis.from_url(url) as plain:
        worker = start_worker(settings={"broker_url": url}, options=["--without-gossip"])
        eventually(worker.answers, "remote control")
        plain.config_set("maxmemory-policy", "noeviction")
        plain.config_set("maxmemory", "1mb")
        plain.client_kill_filter(_type="pubsub")
        eventually(lambda: "No command can be received" in worker.output, "an error that says why")
        seen = refused(plain)
        eventually(lambda: refused(plain) >= seen + 3, "more refusals")
        assert worker.output.count("No command can be received") == 1

        plain.config_set("maxmemory", 0)
        eventually(lambda: worker.answers(within=1), "remote control again")
        assert_it_ends(worker)
