"""One small storm of interruptions, for every run of the tests; `make test-storms` has large ones.

Publishes are confirmed on RabbitMQ, which is where more can go wrong.
"""

from __future__ import annotations

from typing import Callable

import pytest
from harness.brokers import Space
from harness.worker import StartWorker
from interruptions import interrupt
from load import Sizes
from storm import Notes


@pytest.mark.timeout(150)
def test_every_task_of_a_small_storm_has_one_outcome(
    start_worker: StartWorker,
    space: Space,
    notes: Notes,
    broker: str,
    record: Callable[..., None],
) -> None:
    findings, figures = interrupt(start_worker, space, notes, 1, Sizes(tasks=300, noops=1000))
    record(findings=findings.counts, **figures)
    assert not findings, f"\n{findings}"
