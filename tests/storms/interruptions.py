"""A storm of interruptions, from its first task to the end of its worker."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

from harness.brokers import Space
from harness.events import EventLog
from harness.waiting import TooLateError, eventually
from harness.worker import StartWorker
from load import Sizes, make_calls
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


def interrupt(
    start_worker: StartWorker,
    space: Space,
    notes: Notes,
    seed: int,
    sizes: Sizes,
) -> tuple[Findings, dict[str, Any]]:
    """Let one storm of limits and terminations go over a worker, and end that worker.

    Args:
        start_worker: Starts it.
        space: Where it consumes.
        notes: What its tasks write down.
        seed: Makes the storm.
        sizes: How large it is.

    Returns:
        What does not hold, and figures.
    """
    findings = Findings()
    # The odd ones publish with confirms; Redis has none.
    options = {"confirm_publish": seed % 2 == 1} if space.rabbit else {}
    fill_probes(space)
    worker = start_worker(options=["-E"], settings={"broker_transport_options": options})
    before = worker.pool_info()
    storm = Storm(worker, make_calls(seed, sizes.tasks, space.name, sizes.calm), notes, seed)
    with EventLog(worker.client) as events:
        storm.run()
        storm.settle()
        seen = judge_outcomes(storm, findings)
        told = ("task-succeeded", "task-failed", "task-revoked")
        # The verdict says for whom there is none.
        with contextlib.suppress(TooLateError):
            eventually(
                lambda: seen.keys() <= {e["uuid"] for kind in told for e in events.named(kind)},
                "an event for each",
                within=5,
                every=0.2,
            )
        judge_told(storm, findings, seen, told_by_events(events.all()), "events")
    judge_told(storm, findings, seen, told_by_signals(notes), "signals")
    judge_answers(storm, findings)
    for entry in notes.of("refused"):
        findings.add("a call that was refused", f"{entry['step']}: {entry['error']}")
    judge_children(storm, findings)
    judge_lines(storm, findings)
    wrong = run_noops(worker, sizes.noops)
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
