"""Sends a storm to a worker, and keeps all that can be known of what came of it."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

import amqp
from celery import states
from harness.brokers import Space
from harness.proxy import Proxy
from harness.waiting import TooLateError, eventually
from harness.worker import Worker, make_client
from load import QUEUES, WITHIN, Call, probe_queue

WINDOW = 60
"""Tasks that are out at a time: those that wait for others leave slots to those."""
SLOTS = 200
PATIENCE = WITHIN + 5
"""Seconds without any outcome after which those that have none count as hanging."""


class Notes:
    """What the tasks wrote down, read as it comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._entries: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return what has been noted so far under ``event``."""
        self._refresh()
        return self._entries[event]

    def count(self, event: str) -> int:
        return len(self.of(event))

    def _refresh(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as source:
            source.seek(self._read)
            data = source.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.splitlines():
            entry = json.loads(line)
            self._entries[entry["event"]].append(entry)


class Storm:
    """The tasks of one storm, sent to ``worker``.

    Attributes:
        first: The stored result of each task that ended, as it was when it was first seen.
        seconds: How long it took.
    """

    def __init__(self, worker: Worker, calls: list[Call], notes: Notes, seed: int) -> None:
        self.worker = worker
        self.calls = calls
        self.notes = notes
        self.first: dict[str, dict[str, Any]] = {}
        self.seconds = 0.0
        self._chance = random.Random(f"terminate {seed}")
        self._client = make_client({**worker.settings, "result_backend": None})

    def run(self, on_progress: Callable[[int], None] = lambda ended: None) -> None:
        """Send all tasks, and return when each has ended or none has for long.

        Args:
            on_progress: Told how many have ended, whenever some have.
        """
        began = progressed = time.monotonic()
        left = self.calls[::-1]
        out: dict[str, Call] = {}
        doomed: list[str] = []
        try:
            with self._client.producer_pool.acquire() as producer:
                while (left or out) and time.monotonic() - progressed < PATIENCE:
                    while left and len(out) < WINDOW:
                        call = left.pop()
                        self._send(call, producer)
                        out[call.id] = call
                        if call.is_terminated:
                            doomed.append(call.id)
                    doomed = self._terminate_some(doomed, is_last=not left)
                    ended = self._look(out)
                    for task_id in ended:
                        del out[task_id]
                    if ended:
                        progressed = time.monotonic()
                        on_progress(len(self.first))
                    else:
                        time.sleep(0.003)
        finally:
            self._client.close()
        self.seconds = time.monotonic() - began

    def _send(self, call: Call, producer: Any) -> None:
        self._client.send_task(
            call.task,
            (call.number, call.steps, call.catches),
            task_id=call.id,
            soft_time_limit=call.soft,
            time_limit=call.hard,
            producer=producer,
        )

    def _terminate_some(self, doomed: list[str], is_last: bool) -> list[str]:
        """Terminate some of those that are to be, and return the others."""
        now = [task_id for task_id in doomed if is_last or self._chance.random() < 0.3]
        if now:
            self._client.control.revoke(now, terminate=True)
        return [task_id for task_id in doomed if task_id not in now]

    def _look(self, task_ids: Iterable[str]) -> list[str]:
        """Take note of those that have ended since."""
        ended = [
            (task_id, meta)
            for task_id, meta in self.worker.outcomes(list(task_ids)).items()
            if meta["status"] in states.READY_STATES
        ]
        self.first.update(ended)
        return [task_id for task_id, _ in ended]

    def published(self) -> dict[str, dict[str, Any]]:
        """Return the notes on the children that were published for certain, by task id."""
        return {entry["id"]: entry for entry in self.notes.of("published")}

    def settle(self, within: float = 20.0) -> None:
        """Wait for the children, as long as that may take; the verdict tells who is missing."""

        def all_ran() -> bool:
            ran = {entry["id"] for entry in self.notes.of("child")}
            return self.published().keys() <= ran and not _held(self.worker.space)

        try:
            eventually(all_ran, "the children", within)
        except TooLateError:
            return


def _held(space: Space) -> int:
    return sum(held(space).values())


def held(space: Space) -> dict[str, int]:
    """Return what workers of this space hold or have left, by name of the record or queue."""
    if space.rabbit is None:
        counts = {
            "unacked": int(space.redis.hlen("unacked")),
            "unacked_index": int(space.redis.zcard("unacked_index")),
            space.name: space.queue().ready(),
        }
    else:
        columns = ("name", "messages_ready", "messages_unacknowledged")
        rows = json.loads(space.rabbit.control("list_queues", "--formatter", "json", *columns))
        counts = {
            f"{column} in {row['name']}": row[column]
            for row in rows
            for column in columns[1:]
            if row["name"].split(".")[0] == space.name and ".probe" not in row["name"]
        }
        # Replies and commands expire by themselves, and belong to whoever has asked.
        counts = {what: n for what, n in counts.items() if what.endswith(f" in {space.name}")}
    return {what: count for what, count in counts.items() if count}


def fill_probes(space: Space) -> None:
    """Make the queues that the tasks ask for, the n-th with n messages."""
    for number in range(1, QUEUES + 1):
        name = probe_queue(space.name, number)
        if space.rabbit is None:
            space.redis.lpush(name, *["x"] * number)
            continue
        with space.rabbit.connect() as connection:
            channel = connection.channel()
            channel.queue_declare(name, durable=True, auto_delete=False)
            for _ in range(number):
                channel.basic_publish(amqp.Message("x"), routing_key=name)
            eventually(
                lambda: channel.queue_declare(name, passive=True).message_count == number,  # noqa: B023
                f"the messages of {name}",
            )


def port_of(url: str) -> int:
    """Return the port of a broker's URL."""
    port = urlsplit(url).port
    assert port is not None, url
    return port


def through(url: str, proxy: Proxy) -> str:
    """Return the URL that leads to the same broker through ``proxy``."""
    return url.replace(f":{port_of(url)}/", f":{proxy.port}/")


def run_noops(worker: Worker, count: int, within: float = 60.0) -> str | None:
    """Let the worker run ``count`` tasks that do nothing; return what is wrong with them."""
    ids = worker.flood("noop", [(number,) for number in range(count)])
    try:
        outcomes = worker.wait_outcomes(ids, within)
    except AssertionError as exc:
        return str(exc)
    wrong = sum(outcomes[task_id]["result"] != number for number, task_id in enumerate(ids))
    return f"{wrong} of {count} have another one's result" if wrong else None
