"""Remote control is answered, and no task is lost, while thousands of tasks a second arrive."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from harness.brokers import Brokers, RabbitServer, Space
from harness.processes import Child
from harness.waiting import eventually
from harness.worker import TESTS, Worker, close_client, make_client
from run import FULL, RAN_VARIABLE, say, trouble

HERE = Path(__file__).resolve().parent

RATE = 2000
"""Tasks sent a second."""
ADDED_SHARE = 40
"""For so many tasks of the main queue, one goes to a queue that is added and cancelled."""
SLOTS = 100
COMMANDS = 500
"""Of each kind, in a full run."""
QUEUES = 20
LIMITS = ("10000/s", 0)
COUNTDOWN = 10.0
"""Seconds until tasks are due that are revoked before."""
WITHIN = 60.0
"""Seconds after which a command counts as not answered."""


class Commander:
    """Sends commands of a few kinds, one after another, from a thread and a client of its own."""

    def __init__(self, worker: Worker, commands: Iterator[tuple[Any, ...]]) -> None:
        self._client = make_client(worker.settings)
        self._node = worker.node
        self._commands = commands
        #: The answers by kind, and the seconds that the slowest took.
        self.answers: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        #: Whatever was not answered with "ok".
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for prepare, kind, *args in self._commands:
                if prepare is not None:
                    prepare(self._client)
                self._send(kind, args)
        except Exception as exc:
            self.failures.append(f"sending ended with {exc!r}")
        finally:
            close_client(self._client)

    def _send(self, kind: str, args: list[Any]) -> None:
        began = time.monotonic()
        call = getattr(self._client.control, kind)
        replies = call(*args, destination=[self._node], reply=True, timeout=WITHIN)
        seconds = time.monotonic() - began
        if not replies or "ok" not in replies[0][self._node]:
            self.failures.append(f"{kind}{tuple(args)}: {replies!r} after {seconds:.1f} s")
            return
        self.answers[kind] += 1
        self.slowest[kind] = max(self.slowest.get(kind, 0.0), seconds)

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()


def _consumers(times: int, queues: list[str]) -> Iterator[tuple[Any, ...]]:
    for number in range(times):
        queue = queues[number % len(queues)]
        yield None, "add_consumer", queue
        yield None, "cancel_consumer", queue


def _sizes(times: int) -> Iterator[tuple[Any, ...]]:
    for number in range(times):
        yield None, "pool_grow", number % 5 + 1
        yield None, "pool_shrink", number % 5 + 1


def _revocations(times: int) -> Iterator[tuple[Any, ...]]:
    for number in range(times):
        task_id = f"revoked-{number}"

        def send(client: Any, number: int = number, task_id: str = task_id) -> None:
            client.send_task(
                "count", ("revoked", number), task_id=task_id, countdown=COUNTDOWN, retry=False
            )

        yield send, "revoke", task_id


def _limits(times: int) -> Iterator[tuple[Any, ...]]:
    for number in range(times):
        yield None, "rate_limit", "count", LIMITS[number % len(LIMITS)]


@pytest.fixture
def space(brokers: Brokers, rabbit: RabbitServer) -> Space:
    """A space on RabbitMQ that this test has to itself."""
    return brokers.space("rabbitmq")


@pytest.fixture(params=["amqp", "amqps"])
def broker_settings(request: pytest.FixtureRequest, rabbit: RabbitServer) -> dict[str, Any]:
    """How to reach the broker, in the clear and over TLS."""
    if request.param == "amqp":
        return {}
    return {
        "broker_url": rabbit.tls_url,
        "broker_use_ssl": {"ca_certs": str(rabbit.certificate), "cert_reqs": 2},
    }


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The file in which the tasks say that they ran."""
    return tmp_path / "ran"


@pytest.fixture
def worker(
    pool: str, space: Space, broker_settings: dict[str, Any], log_folder: Path, ran: Path
) -> Iterator[Worker]:
    """A worker on its way; its log has warnings and errors only."""
    started = Worker(
        pool,
        space,
        log_folder,
        "project",
        [HERE],
        concurrency=SLOTS,
        settings={"broker_connection_retry_on_startup": True, **broker_settings},
        env={RAN_VARIABLE: str(ran)},
        loglevel="WARNING",
    )
    yield started
    started.kill()


@pytest.fixture
def added(space: Space, rabbit: RabbitServer) -> list[str]:
    """Queues that take messages before any worker knows of them."""
    names = [f"{space.name}.added{number}" for number in range(QUEUES)]
    with rabbit.connect() as connection:
        for name in names:
            connection.channel().queue_declare(name, durable=True, auto_delete=False)
    return names


def test_commands_are_answered_and_no_task_is_lost(
    worker: Worker,
    rabbit: RabbitServer,
    added: list[str],
    ran: Path,
    log_folder: Path,
    minutes: float,
    record: Callable[..., None],
) -> None:
    times = max(QUEUES, round(COMMANDS * minutes / FULL))
    worker.wait_ready()
    assert worker.pool_info()["accelerated"]["transport"] is True
    sender = _start_sender(worker, rabbit, added, log_folder)
    try:
        eventually(ran.exists, "the first task", within=30)
        commanders = [
            Commander(worker, commands)
            for commands in (_consumers(times, added), _sizes(times), _revocations(times))
        ]
        commanders.append(Commander(worker, _limits(times)))
        began = time.monotonic()
        _wait(worker, sender, commanders, ran, times)
        storm = time.monotonic() - began
    finally:
        sender.stop(within=60)
    sent = json.loads(sender.tail(1))
    failures = [failure for commander in commanders for failure in commander.failures]
    answers = sum((commander.answers for commander in commanders), Counter())
    slowest = {kind: s for commander in commanders for kind, s in commander.slowest.items()}
    record(
        pool=worker.pool,
        transport=worker.settings["broker_url"].partition(":")[0],
        storm=round(storm, 1),
        sent=sent,
        sent_per_second=round(sent["main"] / sent["seconds"]),
        ran_meanwhile=_lines(ran),
        commands=6 * times,
        answers=answers,
        slowest={kind: round(seconds, 3) for kind, seconds in slowest.items()},
        failures=failures[:10],
    )
    assert failures == []
    assert set(answers.values()) == {times}

    worker.control("rate_limit", "count", 0)
    for queue in added:
        worker.control("add_consumer", queue)
    expected = sent["main"] + sent["added"]
    eventually(lambda: _lines(ran) >= expected, f"{expected} tasks to run", within=120, every=0.2)
    time.sleep(COUNTDOWN)  # revoked tasks, had they not been revoked, would be due
    numbers: dict[str, Counter[int]] = {lane: Counter() for lane in ("main", "added", "revoked")}
    for line in ran.read_text().splitlines():
        lane, number = line.split()
        numbers[lane][int(number)] += 1
    assert numbers["main"] == Counter(range(sent["main"]))
    assert set(numbers["added"]) == set(range(sent["added"]))
    assert not numbers["revoked"]
    info = worker.pool_info()
    assert (info["limit"], info["running"], info["waiting"]) == (SLOTS, 0, 0)
    assert [line for line in worker.output.splitlines() if trouble(line)] == []
    for queue in [worker.space.name, *added]:
        assert len(worker.space.queue(queue)) == 0, queue
    repeated = sum(numbers["added"].values()) - sent["added"]
    say(f"all ran once; of the added queues, {repeated} ran twice")


def _start_sender(worker: Worker, rabbit: RabbitServer, added: list[str], folder: Path) -> Child:
    return Child(
        [
            *(sys.executable, str(HERE / "sender.py"), f"127.0.0.1:{rabbit.port}"),
            *("--rate", str(RATE), "--share", str(ADDED_SHARE), worker.space.name, *added),
        ],
        log=folder / f"sender-{worker.node}.log",
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )


def _wait(
    worker: Worker, sender: Child, commanders: list[Commander], ran: Path, times: int
) -> None:
    """Wait until all commands are sent; show how many have been answered."""
    told = time.monotonic()
    while not all(commander.is_done for commander in commanders):
        assert worker.child.running, f"{worker} ended:\n{worker.child.tail()}"
        assert sender.running, f"the sender ended:\n{sender.tail()}"
        if time.monotonic() >= told + 10:
            told = time.monotonic()
            answered = sum(sum(commander.answers.values()) for commander in commanders)
            say(f"{worker}: {answered} of {6 * times} answers, {_lines(ran)} tasks")
        time.sleep(0.2)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
