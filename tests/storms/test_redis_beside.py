"""What redis-py does by itself on a connection never takes the reply of a task's command."""

from __future__ import annotations

import time
from typing import Any, Callable

import pytest
from harness.brokers import Space
from harness.worker import StartWorker
from load import CREDENTIALS_VARIABLE
from storm import Notes
from tokens import MOST, USER, token

WAVES = 5
TASKS = 1000
"""Of one wave; each sets a key of its own, and gets it twice."""
HEALTH_CHECK = 1
"""Seconds without a command after which redis-py asks whether the server is there."""


@pytest.mark.parametrize("renews", [False, True], ids=["password", "tokens"])
@pytest.mark.parametrize("protocol", [2, 3], ids=["resp2", "resp3"])
def test_every_task_gets_its_own_keys_value(
    start_worker: StartWorker,
    space: Space,
    notes: Notes,
    pool: str,
    protocol: int,
    renews: bool,
    record: Callable[..., None],
) -> None:
    query, env = "", {}
    if renews:
        space.redis.acl_setuser(
            USER,
            enabled=True,
            passwords=[f"+{token(number)}" for number in range(MOST)],
            categories=["+@all"],
            keys=["*"],
            channels=["*"],
        )
        query, env = "credential_provider=tokens.Provider", {CREDENTIALS_VARIABLE: "1"}
    settings: dict[str, Any] = {
        "broker_url": f"{space.redis_url}?{query}" if query else space.redis_url,
        "result_backend": f"{space.redis_url}?protocol={protocol}&{query}".rstrip("&"),
        "redis_backend_health_check_interval": HEALTH_CHECK,
        "broker_transport_options": {"health_check_interval": HEALTH_CHECK},
    }
    worker = start_worker(concurrency=200, worker_settings=settings, env=env, loglevel="WARNING")
    before = _calls(space)
    wrong: list[Any] = []
    for wave in range(WAVES):
        numbers = range(wave * TASKS, (wave + 1) * TASKS)
        ids = worker.flood("own_key", [(number, 0.05) for number in numbers])
        outcomes = worker.wait_outcomes(ids, within=40)
        for number, task_id in zip(numbers, ids):
            if outcomes[task_id]["result"] != [number, number]:
                wrong.append((number, outcomes[task_id]["result"]))
        # The check is due when the connection has been idle for its interval.
        time.sleep(HEALTH_CHECK + 0.1)
    after = _calls(space)
    record(
        wrong=len(wrong),
        pings=after.get("ping", 0) - before.get("ping", 0),
        logins=after.get("auth", 0) - before.get("auth", 0),
    )
    assert wrong == []
    assert "Traceback" not in worker.output


def _calls(space: Space) -> dict[str, int]:
    """Return how often the server has executed each command."""
    stats = space.redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(figures["calls"]) for name, figures in stats.items()}
