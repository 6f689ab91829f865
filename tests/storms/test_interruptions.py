"""Tasks that are ended wherever they wait cost nobody else anything."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Callable

import pytest
from harness.brokers import Space
from harness.events import EventLog
from harness.waiting import TooLateError, eventually
from harness.worker import StartWorker
from load import make_calls
from records import Record
from storm import Notes, Storm, fill_probes, run_noops
from verdict import (
    Findings,
    judge_answers,
    judge_children,
    judge_lines,
    judge_outcomes,
    judge_rest,
    judge_told,
    told_by_events,
    told_by_signals,
)

#: Small enough for every run of the tests, which leaves the others to `make test-storms`.
SMALL = {"seed": 1, "tasks": 300, "noops": 1000}


def _storm(
    start_worker: StartWorker,
    space: Space,
    notes: Notes,
    seed: int,
    tasks: int,
    noops: int,
    calm: bool = False,
) -> tuple[Findings, dict[str, Any]]:
    """Let one storm go over a worker, and return what does not hold, and figures."""
    findings = Findings()
    # The odd ones publish with confirms; Redis has none.
    options = {"confirm_publish": seed % 2 == 1} if space.rabbit else {}
    fill_probes(space)
    worker = start_worker(options=["-E"], settings={"broker_transport_options": options})
    before = worker.pool_info()
    storm = Storm(worker, make_calls(seed, tasks, space.name, calm), notes, seed)
    with EventLog(worker.client) as events:
        storm.run()
        storm.settle()
        seen = judge_outcomes(storm, findings)
        told = ("task-succeeded", "task-failed", "task-revoked")
        try:
            eventually(
                lambda: seen.keys() <= {e["uuid"] for kind in told for e in events.named(kind)},
                "an event for each",
                within=5,
                every=0.2,
            )
        except TooLateError:
            pass  # the verdict says for whom there is none
        judge_told(findings, seen, told_by_events(events.all()), "events")
    judge_told(findings, seen, told_by_signals(notes), "signals")
    judge_answers(storm, findings)
    for entry in notes.of("refused"):
        findings.add("a call that was refused", f"{entry['step']}: {entry['error']}")
    judge_children(storm, findings)
    judge_lines(storm, findings)
    wrong = run_noops(worker, noops)
    if wrong:
        findings.add("tasks after the storm", wrong)
    judge_rest(storm, findings, before)
    worker.terminate()
    code = worker.child.wait(20)
    if code != 0:
        findings.add("another end than 0", code)
    return findings, {
        "seconds": round(storm.seconds, 1),
        "outcomes": dict(Counter(seen.values())),
        "joined": notes.count("got"),
        "published": notes.count("published"),
    }


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
    findings, figures = _storm(start_worker, space, notes, seed, **sizes)
    record(findings=findings.counts, **figures)
    kept.write(findings, **figures)
    assert not findings, f"\n{findings}"
