"""What a forked child makes of its parent's hub, on each hub."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from functools import partial
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, Callable

import pytest
from celery.utils.log import ColorFormatter

from hybrid import hubs
from hybrid.errors import ForkedError
from hybrid.hubs.base import Hub
from hybrid.hubs.parking import Place
from hybrid.worker.watching.lines import InfoLogger


def fork(
    hub: Hub, run: Callable[[], Any], before: Callable[[], object] = lambda: None
) -> tuple[int, Any]:
    """Have a greenlet fork a child that calls ``run``; return its exit code and what it returns.

    The child ends as the greenlet ends. ``before`` is called right before the fork.
    """
    place = Place(hub)
    reader, writer = os.pipe()

    def run_in_child() -> None:
        before()
        pid = os.fork()
        if pid == 0:
            os.write(writer, json.dumps(run()).encode())
            return
        place.tell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    hub.spawn(run_in_child)
    code = place.wait(20)
    os.write(writer, b" ")  # so that there is something to read
    said = os.read(reader, 4096).strip()
    os.close(reader)
    os.close(writer)
    return code, json.loads(said) if said else None


def test_nothing_of_the_parents_gets_a_turn(hub: Hub) -> None:
    ran: list[str] = []
    place = Place(hub)
    near, far = socket.socketpair()
    hub.spawn(lambda: (hub.sleep(0.05), ran.append("slept")))
    hub.spawn(lambda: (place.wait(), ran.append("told")))
    hub.spawn(lambda: (near.recv(1), ran.append("received")))
    hub.call_later(0.05, lambda: ran.append("alarm"))
    hub.sleep(0.001)

    def wait_in_child() -> list[str]:
        time.sleep(0.2)
        return ran

    def prepare() -> None:
        # All of this is for the hub's next turn, and what forks has it before the hub.
        far.send(b"x")
        place.tell()
        hub.call_soon(ran.append, "soon")
        hub.call_soon_threadsafe(ran.append, "soon from a thread")
        hub.spawn(ran.append, "spawned")

    assert fork(hub, wait_in_child, prepare) == (0, [])
    hub.sleep(0.1)
    assert sorted(ran) == [
        *("alarm", "received", "slept", "soon", "soon from a thread", "spawned", "told"),
    ]
    near.close()
    far.close()


def test_what_is_due_with_the_one_that_forks_is_the_parents(hub: Hub) -> None:
    ran: list[int] = []
    codes: list[int] = []
    place = Place(hub)

    def run(number: int) -> None:
        hub.sleep(0.01)
        ran.append(number)
        if len(ran) > 1:
            return
        pid = os.fork()
        if pid == 0:
            time.sleep(0.05)
            os._exit(len(ran))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        place.tell()

    for number in range(5):
        hub.spawn(run, number)
    hub.sleep(0)
    began = time.monotonic()
    while time.monotonic() - began < 0.02:
        pass  # until all are due, for one turn of the hub
    place.wait(20)
    hub.sleep(0.02)
    assert codes == [1]
    assert sorted(ran) == list(range(5))


def test_the_parents_sockets_are_served_when_the_child_has_ended(hub: Hub) -> None:
    near, far = socket.socketpair()
    got: list[bytes] = []
    place = Place(hub)

    def receive() -> None:
        got.append(near.recv(1))
        place.tell()

    hub.spawn(receive)
    hub.sleep(0.001)

    def use_it() -> str:
        # It waits for the same file descriptor, in a loop of its own.
        near.settimeout(0.05)
        with pytest.raises(socket.timeout):
            near.recv(1)
        return "nothing"

    assert fork(hub, use_it) == (0, "nothing")
    far.send(b"x")
    place.wait(20)
    assert got == [b"x"]
    near.close()
    far.close()


def test_a_child_goes_on_with_sockets_and_greenlets(hub: Hub) -> None:
    near, far = socket.socketpair()

    def talk() -> str:
        import threading

        thread = threading.Thread(target=lambda: (time.sleep(0.01), far.send(b"hello")))
        thread.start()
        said = near.recv(5).decode()
        thread.join()
        return said

    assert fork(hub, talk) == (0, "hello")
    near.close()
    far.close()


def test_in_a_child_no_hub_runs(hub: Hub) -> None:
    def look() -> list[Any]:
        with pytest.raises(ForkedError, match="forked child"):
            Place(hub).wait()
        return [hubs.running() is None, hub.can_park(), hub.in_thread()]

    assert fork(hub, look) == (0, [True, False, False])
    assert hubs.running() is not None
    assert hub.in_thread()


def test_a_child_writes_no_lines_of_its_parents(hub: Hub, tmp_path: Path) -> None:
    handler = WatchedFileHandler(tmp_path / "worker.log")
    handler.setFormatter(ColorFormatter("%(message)s", use_color=False))
    logger = logging.Logger("test_forks", logging.INFO)
    logger.addHandler(handler)
    log = InfoLogger(logger, hub)

    def log_in_child() -> None:
        logger.warning("of the child")
        log("line of the %(whose)s", {"whose": "child"})

    before = partial(log, "line of the %(whose)s", {"whose": "parent"})
    assert fork(hub, log_in_child, before) == (0, None)
    handler.close()
    said = (tmp_path / "worker.log").read_text().splitlines()
    assert sorted(said) == ["line of the child", "line of the parent", "of the child"]


def test_children_are_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "_on_fork", [])
    told: list[bool] = []
    hubs.on_fork(lambda: told.append(hubs.running() is None))
    assert fork(hub, lambda: told) == (0, [True])
    assert told == []


@pytest.mark.parametrize(
    ("leaves", "code"), [(ValueError("no"), 1), (SystemExit(4), 4), (SystemExit("no"), 1)]
)
def test_a_child_ends_with_the_greenlet_that_has_forked(
    hub: Hub, leaves: BaseException, code: int
) -> None:
    def run() -> None:
        time.sleep(0.001)
        sys.stdout.flush()
        raise leaves

    assert fork(hub, run) == (code, None)


def test_a_program_starts_although_a_native_thread_has_a_loop(hub: Hub) -> None:
    if hub.name == "eventlet":
        pytest.skip("eventlet starts programs without a fork of its own")
    import gevent

    gevent.get_hub().threadpool.apply(gevent.sleep, (0,))
    with gevent.Timeout(10):
        done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True)
    assert done.stdout == b"1\n"
