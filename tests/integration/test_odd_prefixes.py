"""Keys in Redis may have any prefix."""

from __future__ import annotations

import pytest
from harness.brokers import Space
from harness.worker import StartWorker

PREFIX = "{a}%s[*]-?\\^"


def test_a_prefix_with_letters_of_patterns(start_worker: StartWorker, space: Space) -> None:
    if space.broker != "redis":
        pytest.skip("keys of Redis")
    options = {"global_keyprefix": PREFIX}
    worker = start_worker(
        settings={
            "broker_transport_options": options,
            "result_backend_transport_options": options,
        }
    )
    assert worker.inspect().ping() == {"ok": "pong"}
    assert worker.client.signature("quick", (5,)).delay().get(timeout=15) == 5
    assert not [key for key in space.redis.scan_iter() if not key.decode().startswith(PREFIX)]
