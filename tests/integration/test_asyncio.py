"""asyncio in tasks: whatever runs in one of them, the others are in no loop of its."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from harness.echo import echo_server
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import StartWorker, Worker

pytestmark = [
    pytest.mark.thorough(broker="rabbitmq"),
    pytest.mark.stock_fails("asyncio keeps one running loop for all greenlets of a thread"),
]

WAYS = [
    *("anyio", "async_to_sync", "block_elsewhere", "block_inside", "generate", "get_event_loop"),
    *("nested", "no_loop", "orm", "run", "run_until_complete", "subprocess", "sync_to_async"),
]
if sys.version_info >= (3, 12):
    WAYS.append("eager")
EACH = 12


@pytest.fixture
def start(start_worker: StartWorker, tmp_path: Path) -> StartWorker:
    """Start workers whose project uses asyncio and Django."""

    def start_one(**options: Any) -> Worker:
        env = {"HYBRID_TEST_DATABASE": str(tmp_path / "rows.sqlite3"), **options.pop("env", {})}
        return start_worker(app="asyncio_project", env=env, **options)

    return start_one


def _go(worker: Worker, way: str, count: int) -> list[str]:
    return worker.flood("go", [(way, number) for number in range(count)])


def _wrong(worker: Worker, ids: list[str]) -> dict[int, Any]:
    """Return the results of those that have not returned their numbers."""
    outcomes = worker.wait_outcomes(ids, within=60)
    results = enumerate(outcomes[task_id]["result"] for task_id in ids)
    return {number: result for number, result in results if result != number}


def test_tasks_use_asyncio_in_any_way_at_the_same_time(start: StartWorker) -> None:
    worker = start(concurrency=(len(WAYS) + 1) * EACH)
    with echo_server() as port:
        sent = {way: _go(worker, way, EACH) for way in WAYS}
        sent["talk"] = worker.flood("talk", [(port, number) for number in range(EACH)])
        wrong = {way: _wrong(worker, ids) for way, ids in sent.items()}
    assert {way: results for way, results in wrong.items() if results} == {}


@pytest.mark.parametrize("way", ["run", "bridge"])
def test_a_coroutine_that_blocks_is_named_and_harms_nobody(
    start: StartWorker, journal: Journal, way: str
) -> None:
    worker = start(concurrency=120)
    [blocked] = worker.flood(f"block_by_{way}", [("tag",)])
    journal.wait_for("tag", "blocked")
    line = f"task block_by_{way}[{blocked}] waits in blocking code inside a coroutine"
    ids = _go(worker, "run", 50), _go(worker, "async_to_sync", 50)
    assert [_wrong(worker, sent) for sent in ids] == [{}, {}]
    eventually(lambda: line in worker.output, "the line that names the task")
    journal.write("tag.told", "go on")
    assert worker.wait_outcomes([blocked], within=20)[blocked]["status"] == "SUCCESS"
    assert worker.output.count("in blocking code") == 1
    assert "in wait_in_a_lock at " in worker.output


def test_a_coroutine_is_ended_as_any_task(start: StartWorker, journal: Journal) -> None:
    worker = start(concurrency=6)
    ends: dict[str, tuple[str, dict[str, Any]]] = {
        "soft": ("SoftTimeLimitExceeded", {"soft_time_limit": 1}),
        "hard": ("TimeLimitExceeded", {"time_limit": 1}),
        "terminate": ("TaskRevokedError", {}),
    }
    ways = [(end, does_block) for end in ends for does_block in (False, True)]
    sent = {}
    for end, does_block in ways:
        tag = f"{end} {does_block}"
        [sent[tag]] = worker.flood("wait_for_ever", [(tag, does_block)], **ends[end][1])
        journal.wait_for(tag, "waiting")
        if end == "terminate":
            worker.client.control.revoke(sent[tag], terminate=True)
    outcomes = worker.wait_outcomes(sent.values(), within=20)
    for end, does_block in ways:
        tag = f"{end} {does_block}"
        assert outcomes[sent[tag]]["result"]["exc_type"] == ends[end][0]
        journal.wait_for(tag, "cleaned up")
    ids = _go(worker, "run", 12), _go(worker, "no_loop", 12)
    assert [_wrong(worker, more) for more in ids] == [{}, {}]


@pytest.mark.parametrize("when", ["before", "later"])
def test_uvloop_is_said_to_stop_the_others(start: StartWorker, when: str) -> None:
    env = {"HYBRID_TEST_IMPORT": "uvloop"} if when == "before" else {}
    worker = start(concurrency=3, env=env)
    ids = worker.flood("uv", [(number,) for number in range(4)])
    assert _wrong(worker, ids) == {}
    assert worker.output.count("runs an event loop of uvloop") == 1
    assert f"task uv[{ids[0]}] runs an event loop of uvloop" in worker.output
    more = _go(worker, "run", 10)
    assert _wrong(worker, more) == {}
