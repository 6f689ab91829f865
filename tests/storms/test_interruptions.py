"""Tasks that are ended wherever they wait cost nobody else anything."""

from __future__ import annotations

from typing import Callable

import pytest
from harness.brokers import Space
from harness.worker import StartWorker
from interruptions import interrupt
from load import Sizes
from storm import Notes


@pytest.mark.timeout(600)
def test_every_task_of_a_storm_has_one_outcome_and_the_worker_goes_on(
    keep: Callable[..., None],
    start_worker: StartWorker,
    space: Space,
    notes: Notes,
    seed: int,
    sizes: Sizes,
) -> None:
    keep(*interrupt(start_worker, space, notes, seed, sizes))
