"""A thousand tasks at once, in event loops, in front of them and beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.echo import echo_server
from harness.worker import StartWorker

THIRD = 334


@pytest.mark.stock_fails("asyncio keeps one running loop for all greenlets of a thread")
def test_a_thousand_tasks_use_asyncio_async_to_sync_and_django(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(
        app="asyncio_project",
        concurrency=3 * THIRD,
        loglevel="WARNING",
        env={"HYBRID_TEST_DATABASE": str(tmp_path / "rows.sqlite3")},
    )
    numbers = range(THIRD)
    with echo_server() as port:
        sent = {
            "talk": worker.flood("talk", [(port, number) for number in numbers]),
            "bridge": worker.flood("go", [("async_to_sync", number) for number in numbers]),
            "orm": worker.flood("go", [("orm", number) for number in numbers]),
        }
        outcomes = {kind: worker.wait_outcomes(ids, within=120) for kind, ids in sent.items()}
    right = {
        kind: sum(outcomes[kind][task_id]["result"] == n for n, task_id in enumerate(ids))
        for kind, ids in sent.items()
    }
    assert right == dict.fromkeys(sent, THIRD)
    assert "in blocking code" not in worker.output
