"""What belongs to a whole worker process: its options, its warnings and its end."""

from __future__ import annotations

import re
import shelve
import signal
import time

import pytest
from harness.waiting import eventually
from shell import Shell
from venvs import Venv


def test_embedded_beat(shell: Shell, installed: Venv, hub: str) -> None:
    schedule = shell.folder / "schedule"
    worker = shell.start(
        *(installed, "celery", "-A", "proj", "worker", "-P", f"hybrid.{hub}", "-c", "10"),
        *("-l", "INFO", "-B", "-s", str(schedule)),
        settings={"beat_schedule": {"tick": {"task": "add", "schedule": 1.0, "args": (1, 1)}}},
    ).ready()

    def runs() -> int:
        return len(re.findall(r"Task add\[.*\] succeeded", worker.child.output()))

    began = time.monotonic()
    eventually(lambda: runs() >= 4, "four runs of a task that is due every second", within=10)
    assert time.monotonic() - began > 2
    worker.child.send_signal(signal.SIGTERM)
    assert worker.child.wait(15) == 0
    assert "Traceback" not in worker.child.output()
    with shelve.open(str(schedule), "r") as saved:
        assert saved["entries"]["tick"].total_run_count >= 3


def test_the_worker_says_once_that_it_was_started_without_a_number(
    shell: Shell, installed: Venv, hub: str
) -> None:
    command = ("celery", "-A", "proj", "worker", "-P", f"hybrid.{hub}")
    worker = shell.start(installed, *command).ready()
    output = worker.child.output()
    assert output.count("started without -c") == 1
    assert output.count("WARNING/MainProcess] hybrid.") == 1
    assert f"-P hybrid.{hub} -c 1000" in output
    assert (
        "started without -c" not in shell.start(installed, *command, "-c9").ready().child.output()
    )


def test_eventlet_detects_who_blocks(shell: Shell, installed: Venv) -> None:
    """Celery's variable for it; stock eventlet does the same, with the same words."""
    outputs = {}
    for pool in ("eventlet", "hybrid.eventlet"):
        worker = shell.start(
            *(installed, "celery", "-A", "proj", "worker", "-P", pool, "-c", "10"),
            env={"EVENTLET_NOBLOCK": "0.5"},
        ).ready()
        with pytest.raises(Exception, match=r"Blocking detector .*ALARMED"):
            worker.call("block", 3.0)
        assert worker.call("add", 1, 1) == 2
        outputs[pool] = worker.child.output()
        worker.child.kill()
    assert all("Blocking detector" in output for output in outputs.values())


def test_signals_end_an_idle_worker_as_they_end_a_stock_one(
    shell: Shell, installed: Venv, hub: str
) -> None:
    workers = {
        (pool, name): shell.start(installed, "celery", "-A", "proj", "worker", "-P", pool, "-c9")
        for pool in (hub, f"hybrid.{hub}")
        for name in ("SIGTERM", "SIGINT", "SIGQUIT")
    }
    for (_, name), worker in workers.items():
        worker.ready().child.send_signal(getattr(signal, name))
    codes = {key: worker.child.wait(15) for key, worker in workers.items()}
    for (pool, name), worker in workers.items():
        assert codes[pool, name] == codes[hub, name] is not None, name
        assert "Traceback" not in worker.child.output(), (pool, name)
