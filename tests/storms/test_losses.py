"""Connections that are lost cost nobody a task, and leave nothing behind."""

from __future__ import annotations

import bisect
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from typing import Callable

import pytest
from harness.brokers import Space
from harness.proxy import proxied
from harness.waiting import eventually
from harness.worker import StartWorker, Worker
from load import Call, Sizes, make_calls
from losses import Losses, add_spoilers
from storm import SLOTS, Notes, Storm, fill_probes, port_of, run_noops, through
from verdict import Findings, judge_answers, judge_children, judge_outcomes, judge_rest

#: What may be more after the storm than before: connections that a pool has opened for good. A
#: leak of one for each loss is far more.
SLACK = {"greenlets": 10, "dispatchers": 0, "descriptors": 10, "connections": 10}


def _fill_slots(worker: Worker) -> dict[str, int]:
    """Let every slot run a task, and return what the worker counts of itself then."""
    # Long enough for all of them to have begun before the first has ended.
    ids = worker.flood("own_key", [(number, 1.5) for number in range(2 * SLOTS)])
    worker.wait_outcomes(ids, within=30)
    # Celery makes a command of the name of each method that it does not have.
    counts: dict[str, int] = worker.inspect()._request("tally")
    return counts


def _wait_for_remote_control(worker: Worker, findings: Findings) -> None:
    """Wait for the worker to listen again: whoever commands it meanwhile is heard by nobody."""
    try:
        eventually(lambda: worker.answers(within=1), "an answer", within=20)
    except AssertionError as exc:
        findings.add("remote control", exc)


def _judge_growth(worker: Worker, before: dict[str, int], findings: Findings) -> dict[str, int]:
    after = before

    def is_back() -> bool:
        nonlocal after
        after = _fill_slots(worker)
        return all(after[name] <= before[name] + slack for name, slack in SLACK.items())

    try:
        eventually(is_back, "what the storm left behind to be gone", within=15, every=1)
    except AssertionError as exc:
        if after is before:  # not a slot could be filled
            findings.add("tasks after the storm", exc)
        for name, slack in SLACK.items():
            if after[name] > before[name] + slack:
                findings.add(f"{name} left behind", f"{before[name]} became {after[name]}")
    return after


def _judge_late(calls: list[Call], notes: Notes, lost_at: list[float], findings: Findings) -> int:
    """Look for tasks that ran through a loss and came again; return how many ran through one."""
    runs: dict[str, list[float]] = {}
    for entry in notes.of("started"):
        runs.setdefault(entry["id"], []).append(entry["at"])
    ends = {entry["number"]: entry["at"] for entry in notes.of("returned")}
    through = 0
    for call in calls:
        began = runs.get(call.id)
        if not call.is_late or not began:
            continue
        end = ends.get(call.number, max(began) + 0.05)
        if bisect.bisect(lost_at, began[0]) == bisect.bisect(lost_at, end):
            continue
        through += 1
        if len(began) > 1:
            findings.add("a task that ran through a loss and came again", f"{call}: {len(began)}")
    return through


@pytest.mark.timeout(900)
def test_nothing_is_lost_or_left_behind_when_connections_are_lost(
    keep: Callable[..., None],
    start_worker: StartWorker,
    space: Space,
    notes: Notes,
    seed: int,
    sizes: Sizes,
) -> None:
    findings = Findings()
    fill_probes(space)
    calls = make_calls(seed, sizes.tasks, space.name, sizes.calm)
    with ExitStack() as stack:
        results = stack.enter_context(proxied(port_of(space.redis_url)))
        broker_proxy = results
        own = {"result_backend": through(space.redis_url, results)}
        if space.rabbit is None:
            own["broker_url"] = own["result_backend"]
        else:
            broker_proxy = stack.enter_context(proxied(space.rabbit.port))
            own["broker_url"] = through(space.rabbit.url, broker_proxy)
            calls = [
                replace(call, steps=add_spoilers(call.steps, seed, call.number)) for call in calls
            ]
        worker = start_worker(
            options=["-E"],
            worker_settings=own,
            # What the broker has not confirmed may be lost, by AMQP's own rules.
            settings={"broker_transport_options": {"confirm_publish": True}}
            if space.rabbit
            else {},
        )
        before = _fill_slots(worker)
        pool_before = worker.pool_info()
        storm = Storm(worker, calls, notes, seed)
        losses = Losses(space, broker_proxy, results, sizes.losses, sizes.tasks, seed)
        storm.run(losses.on_progress)
        storm.settle()
        _wait_for_remote_control(worker, findings)
        # On RabbitMQ a message comes again whose acknowledgement was lost with its connection.
        seen = judge_outcomes(storm, findings, may_come_again=space.rabbit is not None)
        judge_answers(storm, findings)
        judge_children(storm, findings, at_most_once=False)
        through_losses = 0
        if space.rabbit is None:
            through_losses = _judge_late(calls, notes, losses.at, findings)
        judge_rest(storm, findings, pool_before)
        wrong = run_noops(worker, sizes.noops)
        if wrong:
            findings.add("tasks after the storm", wrong)
        after = before if wrong else _judge_growth(worker, before, findings)
        worker.terminate()
        code = worker.child.wait(20)
        if code != 0:
            findings.add("another end than 0", code)
    figures = {
        "seconds": round(storm.seconds, 1),
        "outcomes": dict(Counter(seen.values())),
        "lost": {**losses.made, "replies cut off": len(broker_proxy.cut_at)},
        "ran_through_a_loss": through_losses,
        "refused": notes.count("refused"),
        "before": before,
        "after": after,
    }
    keep(findings, figures)
