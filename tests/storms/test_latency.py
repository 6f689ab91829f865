"""A worker that is far from Redis waits for a message, and for nothing else.

What is asserted are replies that the worker waited for, not times: once the message has passed, the
proxy holds back whatever the server says until the task has begun.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections import Counter
from typing import Callable

import pytest
from harness.brokers import Space
from harness.proxy import Proxy, proxied
from harness.waiting import TooLateError, eventually
from harness.worker import StartWorker
from storm import Notes, port_of, through

ONE_WAY = 0.02
MESSAGES = 20
PATIENCE = 1.0
"""Seconds after which a task that has not begun is taken to wait for a reply."""

#: Nothing that speaks by itself.
QUIET = ["--without-heartbeat", "--without-gossip", "--without-mingle"]


def _wait_until_idle(proxy: Proxy) -> None:
    """Return when the worker waits for messages, and everything else has been answered."""

    def is_idle() -> bool:
        before = [link.last_sent for link in proxy.links]
        time.sleep(5 * ONE_WAY)
        sent = [link.last_sent for link in proxy.links]
        return sent == before and any(b"BRPOP" in data for data in sent)

    eventually(is_idle, "the worker to be idle", every=0.05)


@pytest.mark.parametrize("options", [[], ["-E"]], ids=["quiet", "events"])
def test_a_task_begins_without_any_further_reply_once_its_message_is_there(
    start_worker: StartWorker,
    space: Space,
    notes: Notes,
    pool: str,
    options: list[str],
    record: Callable[..., None],
) -> None:
    with proxied(port_of(space.redis_url), ONE_WAY) as proxy:
        far = through(space.redis_url, proxy)
        worker = start_worker(
            concurrency=10,
            options=[*options, *QUIET],
            worker_settings={"broker_url": far, "result_backend": far},
        )

        def begun(number: int) -> list[float]:
            return [one["at"] for one in notes.of("first line") if one["number"] == number]

        def send(number: int, task_id: str | None = None) -> float:
            _wait_until_idle(proxy)
            client.send_task("first_line", (number,), task_id=task_id, ignore_result=True)
            return time.monotonic()

        client = worker.client
        send(-1)
        eventually(lambda: begun(-1), "the first task of all")

        seconds = []
        for number in range(MESSAGES):
            sent = send(number)
            [at] = eventually(lambda: begun(number), f"task {number}")  # noqa: B023
            seconds.append(at - sent)

        replies: Counter[int] = Counter()
        for number in range(MESSAGES, 2 * MESSAGES):
            task_id = str(uuid.uuid4())
            _wait_until_idle(proxy)
            proxy.hold_after(task_id.encode())
            send(number, task_id)
            eventually(lambda: proxy.is_holding, "the message to pass")
            waited = 0
            while not begun(number):
                try:
                    eventually(lambda: begun(number), "its begin", within=PATIENCE)  # noqa: B023
                except TooLateError:
                    eventually(lambda: proxy.held, "a reply to let pass")
                    waited += proxy.release()
            replies[waited] += 1
            proxy.release(all_of_them=True)
    milliseconds = sorted(1000 * one for one in seconds)
    record(
        one_way_ms=1000 * ONE_WAY,
        median_ms=round(statistics.median(milliseconds), 1),
        worst_ms=round(milliseconds[-1], 1),
        tasks_by_replies_waited_for={str(waited): count for waited, count in replies.items()},
    )
    assert replies == {0: MESSAGES}
