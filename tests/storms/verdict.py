"""What must hold after a storm, each as a finding with examples where it does not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from celery import states
from harness.versions import celery_is
from harness.waiting import TooLateError, eventually
from harness.worker import Worker, running
from load import Call
from storm import Notes, Storm, held

#: Events and signals, and the state of the result that each has to come with.
_EVENTS = {
    "task-succeeded": states.SUCCESS,
    "task-failed": states.FAILURE,
    "task-revoked": states.REVOKED,
}
_SIGNALS = {"success": states.SUCCESS, "failure": states.FAILURE, "revoked": states.REVOKED}

#: Before 5.7, Celery tells nobody of a task that meets its hard limit.
TELLS_OF_HARD_LIMITS = celery_is("5.7")
#: In 5.6 alone, a revoke by remote control overwrites whatever is stored, and tells nobody.
REVOKE_OVERWRITES = celery_is("5.6") and not celery_is("5.7")


class Findings:
    """What does not hold, by kind."""

    def __init__(self) -> None:
        self._found: dict[str, list[Any]] = defaultdict(list)

    def add(self, kind: str, example: Any) -> None:
        self._found[kind].append(example)

    @property
    def counts(self) -> dict[str, int]:
        return {kind: len(examples) for kind, examples in self._found.items()}

    def __bool__(self) -> bool:
        return bool(self._found)

    def __str__(self) -> str:
        return "\n".join(
            f"{kind}: {len(examples)}, as {_summarize(examples)}"
            for kind, examples in self._found.items()
        )


def _summarize(examples: list[Any]) -> str:
    """Return some of the examples; what is the same is counted."""
    most = Counter(map(str, examples)).most_common(6)
    shown = most if len(most) < len(examples) else most[:3]
    return "; ".join(f"{count} x {text}" if count > 1 else text for text, count in shown)


def judge_outcomes(
    storm: Storm, findings: Findings, may_come_again: bool = False
) -> dict[str, str]:
    """Look at the stored results; return the state of each task that has ended, by id.

    Args:
        storm: The storm that is over.
        findings: Where to put what does not hold.
        may_come_again: Whether a task may run once more, and then have another outcome.
    """
    final = storm.worker.outcomes(call.id for call in storm.calls)
    steps = _last_notes(storm.notes)
    seen: dict[str, str] = {}
    for call in storm.calls:
        first, meta = storm.first.get(call.id), final.get(call.id)
        if first is None or meta is None:
            findings.add("without an outcome", f"{call}, after {steps.get(call.number)}")
            continue
        seen[call.id] = meta["status"]
        if not (
            may_come_again or _short(first) == _short(meta) or _is_overwritten(call, first, meta)
        ):
            findings.add("an outcome that changed", f"{_short(first)} became {_short(meta)}")
        if meta["status"] == states.SUCCESS:
            if meta["result"] != [call.number, call.id]:
                findings.add("another task's result", f"{call} has {meta['result']}")
        elif not _may_end_so(call, meta):
            findings.add("an outcome without a reason", f"{call} has {_short(meta)}")
    return seen


def _is_overwritten(call: Call, *metas: dict[str, Any]) -> bool:
    """Tell whether a revoke may have put itself in the place of an outcome, or the other way."""
    return (
        REVOKE_OVERWRITES
        and call.is_terminated
        and states.REVOKED in [meta["status"] for meta in metas]
    )


def _may_end_so(call: Call, meta: dict[str, Any]) -> bool:
    if meta["status"] == states.REVOKED:
        return call.is_terminated
    kind = _kind(meta)
    return (kind == "SoftTimeLimitExceeded" and call.soft is not None) or (
        kind == "TimeLimitExceeded" and call.hard is not None
    )


def _kind(meta: dict[str, Any]) -> str | None:
    """Return the name of the error that a task has ended with."""
    return meta["result"].get("exc_type") if isinstance(meta["result"], dict) else None


def _short(meta: dict[str, Any]) -> dict[str, Any]:
    """Return what must not change in a result.

    Celery itself says of a task that is terminated before it has begun that it is revoked, and
    then that it is terminated.
    """
    names = ("status",) if meta["status"] == states.REVOKED else ("status", "result")
    return {name: meta[name] for name in names}


def _last_notes(notes: Notes) -> dict[int, str]:
    """Return what each task noted last."""
    last: dict[int, tuple[float, str]] = {}
    events = ("started", "publishing", "published", "waiting", "got", "stored", "caught", "logged")
    for event in (*events, "refused", "returned"):
        for entry in notes.of(event):
            number, at = entry["number"], entry["at"]
            if number not in last or last[number][0] < at:
                last[number] = at, event
    return {number: event for number, (_, event) in last.items()}


def judge_told(
    storm: Storm,
    findings: Findings,
    seen: dict[str, str],
    told: Iterable[tuple[str, str]],
    who: str,
) -> None:
    """Compare what was told of the tasks' ends with their results: one each, and the same.

    Args:
        storm: The storm that is over.
        findings: Where to put what differs.
        seen: The state of each task's result, by id.
        told: Task ids with the states that were told.
        who: What has told them.
    """
    by_task: dict[str, list[str]] = defaultdict(list)
    for task_id, state in told:
        if task_id in seen:
            by_task[task_id].append(state)
    final = storm.worker.outcomes(seen)
    for call in storm.calls:
        if call.id in seen and by_task[call.id] not in _wanted(call, final[call.id]):
            findings.add(
                f"{who} that disagree with the result",
                f"{seen[call.id]} where {' and '.join(by_task[call.id]) or 'nothing'} was told",
            )


def _wanted(call: Call, meta: dict[str, Any]) -> list[list[str]]:
    """Return what may be told of a task with this result."""
    state = meta["status"]
    if not TELLS_OF_HARD_LIMITS and _kind(meta) == "TimeLimitExceeded":
        return [[]]
    wanted = [[state]]
    if _is_overwritten(call, meta):
        # It had come to something before.
        wanted += [[states.SUCCESS], [states.FAILURE]]
        if call.hard is not None and not TELLS_OF_HARD_LIMITS:
            wanted.append([])
    return wanted


def told_by_events(events: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["uuid"], _EVENTS[event["type"]]) for event in events if event["type"] in _EVENTS]


def told_by_signals(notes: Notes) -> list[tuple[str, str]]:
    return [(entry["id"], state) for event, state in _SIGNALS.items() for entry in notes.of(event)]


def judge_answers(storm: Storm, findings: Findings) -> None:
    """Look for answers that went to others, waiters that hang, and refused calls."""
    for entry in storm.notes.of("wrong"):
        findings.add(f"wrong: {entry['what']}", f"{entry['got']} for {entry['wanted']}")
    for entry in storm.notes.of("hung"):
        findings.add("a waiter that hangs", f"{entry['number']} for {entry['id']}")
    for entry in storm.notes.of("stored"):
        stored = storm.worker.outcomes([entry["id"]]).get(entry["id"], {}).get("result")
        if stored != [entry["number"], entry["id"]]:
            findings.add("a stored result that is lost or another's", f"{stored} for {entry}")


def judge_children(storm: Storm, findings: Findings, at_most_once: bool = True) -> None:
    """Look for children that were published and did not run, or did more than once."""
    ran = Counter(entry["id"] for entry in storm.notes.of("child"))
    published = storm.published()
    results = storm.worker.outcomes(published)
    for child_id, entry in published.items():
        if not ran[child_id]:
            findings.add("a published task that is lost", entry)
        elif not entry["ignored"] and child_id not in results:
            findings.add("a published task without a result", entry)
    for child_id, count in ran.items():
        if count > 1 and at_most_once:
            findings.add("a published task that ran more than once", f"{child_id}: {count}")
        stored = results.get(child_id)
        if stored is not None and stored["result"][1] != child_id:
            findings.add("another task's result", f"{child_id} has {stored['result']}")


def judge_lines(storm: Storm, findings: Findings) -> None:
    """Look for logged lines that are not in the log, or more than once."""
    words = Counter(
        line.rpartition("line ")[2]
        for line in storm.worker.output.splitlines()
        if line.endswith(".") and "line " in line
    )
    runs = Counter(entry["line"] for entry in storm.notes.of("logged"))
    for line, count in runs.items():
        if words[f"{line}."] != count:
            findings.add("a line that is lost or doubled", f"{line}: {words[f'{line}.']}")


def judge_rest(storm: Storm, findings: Findings, before: dict[str, Any]) -> None:
    """Look for what is still held, by the broker for the worker and by the worker itself.

    Args:
        storm: The storm that is over.
        findings: Where to put what is found.
        before: What the pool said before the storm.
    """
    worker = storm.worker
    if not worker.child.running:
        findings.add("a worker that ended", worker.child.exit_code)
        return
    _expect_none(findings, "messages that nobody acknowledged", lambda: held(worker.space))
    _expect_none(findings, "a pool that is not at rest", lambda: _restless(worker, before))


def _expect_none(findings: Findings, kind: str, read: Any) -> None:
    try:
        eventually(lambda: not read(), kind, within=10, every=0.2)
    except TooLateError:
        findings.add(kind, read())
    except AssertionError as exc:
        findings.add("remote control", exc)


def _restless(worker: Worker, before: dict[str, Any]) -> dict[str, Any]:
    now = worker.pool_info()
    if "free" not in now:  # a stock pool tells nothing of itself
        return {"running": busy} if (busy := running(worker)) else {}
    wanted = {"running": 0, "waiting": 0, "free": before["free"]}
    found = {name: now[name] for name, value in wanted.items() if now[name] != value}
    if now["timers"] > before["timers"]:
        found["timers"] = f"{now['timers']} where there were {before['timers']}"
    return found
