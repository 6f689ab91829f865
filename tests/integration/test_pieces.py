"""The setting ``hybrid_disable``, and what the worker says of its pieces."""

from __future__ import annotations

from typing import Any

import pytest
from harness.events import EventLog
from harness.worker import StartWorker

PIECES = (
    *("asyncio", "events", "gc", "logs", "publish"),
    *("results", "strategy", "trace", "transport"),
)


def _accelerated(start_worker: StartWorker, **settings: Any) -> dict[str, Any]:
    worker = start_worker(concurrency=4, settings=settings, options=["-E"])
    ids = worker.flood("quick", [(number,) for number in range(50)])
    outcomes = worker.wait_outcomes(ids, within=20)
    assert [outcomes[task_id]["result"] for task_id in ids] == list(range(50))
    info: dict[str, Any] = worker.pool_info()["accelerated"]
    return info


def test_every_piece_is_on_unless_it_cannot_be(start_worker: StartWorker) -> None:
    accelerated = _accelerated(start_worker)
    assert {name: why for name, why in accelerated.items() if why is not True} == {}


def test_a_transport_that_is_switched_off_is_kombus(start_worker: StartWorker, broker: str) -> None:
    worker = start_worker(concurrency=4, settings={"hybrid_disable": ["transport"]})
    channel = worker.wait_outcomes(worker.flood("channel_class", [()]), within=20)
    [outcome] = channel.values()
    module = {"redis": "redis", "rabbitmq": "pyamqp"}[broker]
    assert outcome["result"] == f"kombu.transport.{module}.Channel"


@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_is_switched_off_by_name(start_worker: StartWorker, piece: str) -> None:
    accelerated = _accelerated(start_worker, hybrid_disable=[piece])
    assert accelerated[piece] == "switched off by the setting hybrid_disable"


def test_events_behind_the_first_of_a_turn_are_recorded_in_rust(start_worker: StartWorker) -> None:
    worker = start_worker(concurrency=50, options=["-E"])
    with EventLog(worker.client) as events:
        ids = worker.flood("quick", [(number,) for number in range(100)])
        for task_id in ids:
            events.wait_for(task_id, "task-succeeded")
        sent = [event for task_id in ids for event in events.of(task_id)]
    assert len(sent) == 3 * len(ids)
    # The order of the fields tells. The first event of a turn is the dispatcher's.
    recorded = [event for event in sent if list(event).index("type") < list(event).index("uuid")]
    assert len(recorded) > len(sent) / 10


def test_an_unknown_piece_stops_the_worker_with_the_choices(start_worker: StartWorker) -> None:
    worker = start_worker(wait=False, settings={"hybrid_disable": "warp"})
    assert worker.wait_exit(within=10) != 0
    assert "hybrid_disable names 'warp'; choose from asyncio, events, gc, logs" in worker.output
