"""The verdict on a storm finds each thing that may be wrong, and nothing where all is right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest
import verdict
from load import Call, make_calls
from storm import Notes
from verdict import (
    Findings,
    judge_answers,
    judge_children,
    judge_lines,
    judge_outcomes,
    judge_told,
    told_by_events,
    told_by_signals,
)


class _Worker:
    """What the verdict reads of a worker."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}
        self.output = ""

    def outcomes(self, task_ids: Any) -> dict[str, dict[str, Any]]:
        return {one: self.stored[one] for one in task_ids if one in self.stored}


class _Storm:
    """Two tasks that have gone well: one published a child, stored a result and logged a line."""

    def __init__(self, folder: Path) -> None:
        limits = {"is_late": False, "catches": False}
        self.calls = [
            Call(0, "id-0", [], soft=0.01, hard=None, is_terminated=False, **limits),
            Call(1, "id-1", [], soft=None, hard=None, is_terminated=True, **limits),
        ]
        self.worker = _Worker()
        self.notes = Notes(folder / "notes.jsonl")
        self.first: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        for call in self.calls:
            self.end(call, "SUCCESS", [call.number, call.id])
            self.note("success", id=call.id)
            self.events.append({"type": "task-succeeded", "uuid": call.id})
        self.note("published", number=0, id="child", ignored=False)
        self.note("child", number=0, id="child")
        self.worker.stored["child"] = {"status": "SUCCESS", "result": [0, "child"]}
        self.note("stored", number=1, id="extra")
        self.worker.stored["extra"] = {"status": "SUCCESS", "result": [1, "extra"]}
        self.note("logged", number=1, line="1-0")
        self.worker.output = "[INFO] storm[id-1]: line 1-0.\n"

    def note(self, event: str, **fields: Any) -> None:
        with self.notes.path.open("a") as out:
            out.write(json.dumps({"event": event, "number": None, "at": 0.0, **fields}) + "\n")

    def end(self, call: Call, status: str, result: Any) -> None:
        """Let the task have ended so, for whoever looks first and last."""
        meta = {"status": status, "result": result}
        self.first[call.id] = self.worker.stored[call.id] = meta

    def published(self) -> dict[str, dict[str, Any]]:
        return {entry["id"]: entry for entry in self.notes.of("published")}

    def judge_outcomes(self) -> set[str]:
        """Return what is found where nothing is looked for but outcomes and who was told."""
        findings = Findings()
        storm: Any = self
        seen = judge_outcomes(storm, findings)
        judge_told(storm, findings, seen, told_by_events(self.events), "events")
        judge_told(storm, findings, seen, told_by_signals(self.notes), "signals")
        return set(findings.counts)

    def judge(self) -> dict[str, int]:
        findings = Findings()
        storm: Any = self
        seen = judge_outcomes(storm, findings)
        judge_told(storm, findings, seen, told_by_events(self.events), "events")
        judge_told(storm, findings, seen, told_by_signals(self.notes), "signals")
        judge_answers(storm, findings)
        judge_children(storm, findings)
        judge_lines(storm, findings)
        return findings.counts


def _failure(kind: str) -> dict[str, Any]:
    return {"exc_type": kind, "exc_message": [], "exc_module": "celery.exceptions"}


def _unfinished(storm: _Storm) -> None:
    del storm.first["id-0"]


def _changed(storm: _Storm) -> None:
    storm.first["id-0"] = {"status": "FAILURE", "result": _failure("SoftTimeLimitExceeded")}


def _anothers_result(storm: _Storm) -> None:
    storm.end(storm.calls[0], "SUCCESS", [1, "id-1"])


def _overtaken_by_progress(storm: _Storm) -> None:
    storm.worker.stored["id-0"] = {"status": "PROGRESS", "result": {"number": 0}}
    storm.first["id-0"] = storm.worker.stored["id-0"]


def _revoked_by_nobody(storm: _Storm) -> None:
    storm.end(storm.calls[0], "REVOKED", _failure("TaskRevokedError"))


def _ended_by_a_limit_it_has_not(storm: _Storm) -> None:
    storm.end(storm.calls[0], "FAILURE", _failure("TimeLimitExceeded"))


def _told_twice(storm: _Storm) -> None:
    storm.events.append({"type": "task-revoked", "uuid": "id-1"})


def _told_never(storm: _Storm) -> None:
    storm.events.pop()


def _signalled_twice(storm: _Storm) -> None:
    storm.note("failure", id="id-0")


def _wrong_answer(storm: _Storm) -> None:
    storm.note("wrong", number=0, what="a queue's answer", got=["b", 2], wanted=["a", 1])


def _hanging(storm: _Storm) -> None:
    storm.note("hung", number=0, id="id-1")


def _stored_elsewhere(storm: _Storm) -> None:
    storm.worker.stored["extra"] = {"status": "SUCCESS", "result": [0, "child"]}


def _not_stored(storm: _Storm) -> None:
    del storm.worker.stored["extra"]


def _lost_child(storm: _Storm) -> None:
    storm.note("published", number=0, id="lost", ignored=True)


def _child_without_result(storm: _Storm) -> None:
    del storm.worker.stored["child"]


def _doubled_child(storm: _Storm) -> None:
    storm.note("child", number=0, id="child")


def _lost_line(storm: _Storm) -> None:
    storm.worker.output = ""


def _doubled_line(storm: _Storm) -> None:
    storm.worker.output *= 2


#: What goes wrong, and what it has to be called.
WRONGS: dict[Callable[[_Storm], None], set[str]] = {
    _unfinished: {"without an outcome"},
    _changed: {"an outcome that changed"},
    _anothers_result: {"another task's result"},
    _overtaken_by_progress: {"an outcome without a reason"},
    _revoked_by_nobody: {"an outcome without a reason"},
    _ended_by_a_limit_it_has_not: {"an outcome without a reason"},
    _told_twice: {"events that disagree with the result"},
    _told_never: {"events that disagree with the result"},
    _signalled_twice: {"signals that disagree with the result"},
    _wrong_answer: {"wrong: a queue's answer"},
    _hanging: {"a waiter that hangs"},
    _stored_elsewhere: {"a stored result that is lost or another's"},
    _not_stored: {"a stored result that is lost or another's"},
    _lost_child: {"a published task that is lost"},
    _child_without_result: {"a published task without a result"},
    _doubled_child: {"a published task that ran more than once"},
    _lost_line: {"a line that is lost or doubled"},
    _doubled_line: {"a line that is lost or doubled"},
}


def test_a_storm_that_went_well_has_no_findings(tmp_path: Path) -> None:
    assert _Storm(tmp_path).judge() == {}


@pytest.mark.parametrize("spoil", WRONGS, ids=lambda spoil: spoil.__name__.strip("_"))
def test_what_goes_wrong_is_found(tmp_path: Path, spoil: Callable[[_Storm], None]) -> None:
    storm = _Storm(tmp_path)
    spoil(storm)
    assert WRONGS[spoil] <= storm.judge().keys()


@pytest.mark.parametrize("tells", [True, False])
def test_whether_a_hard_limit_is_told_is_a_matter_of_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    monkeypatch.setattr(verdict, "TELLS_OF_HARD_LIMITS", tells)
    storm = _Storm(tmp_path)
    storm.calls[0] = replace(storm.calls[0], hard=0.02)
    storm.end(storm.calls[0], "FAILURE", _failure("TimeLimitExceeded"))
    storm.notes = Notes(tmp_path / "others.jsonl")
    storm.note("success", id=storm.calls[1].id)
    storm.events = [event for event in storm.events if event["uuid"] == storm.calls[1].id]
    told = {"events that disagree with the result", "signals that disagree with the result"}
    assert storm.judge_outcomes() == (told if tells else set())
    storm.note("failure", id=storm.calls[0].id)
    storm.events.append({"type": "task-failed", "uuid": storm.calls[0].id})
    assert storm.judge_outcomes() == (set() if tells else told)


@pytest.mark.parametrize("overwrites", [True, False])
@pytest.mark.parametrize("number", [0, 1], ids=["nobody revokes", "revoked"])
def test_whether_a_revoke_overwrites_is_a_matter_of_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrites: bool, number: int
) -> None:
    monkeypatch.setattr(verdict, "REVOKE_OVERWRITES", overwrites)
    storm = _Storm(tmp_path)
    call = storm.calls[number]
    storm.worker.stored[call.id] = {"status": "REVOKED", "result": _failure("TaskRevokedError")}
    assert ("an outcome that changed" in storm.judge()) == (not (overwrites and number))
    assert bool(storm.judge()) == (not (overwrites and number))
    storm.events = [event for event in storm.events if event["uuid"] != call.id]
    assert "events that disagree with the result" in storm.judge()


def test_the_same_seed_makes_the_same_storm() -> None:
    assert make_calls(3, 50, "space") == make_calls(3, 50, "space")
    assert make_calls(3, 50, "space") != make_calls(4, 50, "space")


def test_a_calm_storm_interrupts_nobody_and_does_the_same() -> None:
    wild, calm = make_calls(3, 200, "space"), make_calls(3, 200, "space", calm=True)
    assert [call.steps for call in wild] == [call.steps for call in calm]
    assert not any(call.is_interrupted for call in calm)
    limits = {limit for call in wild for limit in (call.soft, call.hard) if limit}
    assert min(limits) >= 0.001
    assert {bool(call.is_terminated) for call in wild} == {True, False}
