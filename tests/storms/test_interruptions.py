"""Tasks that are ended wherever they wait cost nobody else anything."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest
from harness.brokers import Space
from harness.worker import StartWorker
from interruptions import interrupt
from records import Record
from storm import Notes


@pytest.mark.timeout(600)
def test_every_task_of_a_storm_has_one_outcome_and_the_worker_goes_on(
    start_worker: StartWorker,
    space: Space,
    notes: Notes,
    pool: str,
    broker: str,
    seed: int,
    pytestconfig: pytest.Config,
    record: Callable[..., None],
) -> None:
    folder: Path | None = pytestconfig.getoption("--records")
    sizes = {
        "tasks": pytestconfig.getoption("--storm-tasks"),
        "noops": pytestconfig.getoption("--noops"),
        "calm": pytestconfig.getoption("--calm"),
    }
    kept = Record(folder, ["interruptions", pool, broker, str(seed)], sizes)
    kept.skip_if_passed()
    findings, figures = interrupt(start_worker, space, notes, seed, **sizes)
    record(findings=findings.counts, **figures)
    kept.write(findings, **figures)
    assert not findings, f"\n{findings}"
