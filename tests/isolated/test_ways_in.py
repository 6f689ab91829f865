"""Each way to start a worker on our pools patches before the user's project is imported."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Callable

import pytest
from harness.waiting import eventually
from shell import APPS, SOCKETS, Shell, Started
from venvs import Venv

Record = Callable[[str, float], None]

SPELLINGS = {
    "-P x": ("-P", "hybrid.{}"),
    "-Px": ("-Phybrid.{}",),
    "-EP x": ("-EP", "hybrid.{}"),
    "--pool x": ("--pool", "hybrid.{}"),
    "--pool=x": ("--pool=hybrid.{}",),
}


def check(worker: Started, hub: str) -> None:
    """Check what must hold however the worker was started."""
    worker.ready()
    assert worker.sockets
    assert set(worker.sockets) == {SOCKETS[hub]}
    assert worker.pool_stats()["implementation"] == f"hybrid.{hub}:TaskPool"
    assert worker.call("add", 2, 3) == 5


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_celery_command(
    shell: Shell, installed: Venv, hub: str, spelling: str, record: Record
) -> None:
    options = [part.format(hub) for part in SPELLINGS[spelling]]
    # Once as users type it: with its second of waiting for other workers.
    quick = spelling != "-P x"
    worker = shell.start(
        installed, "celery", "-A", "proj", "worker", *options, "-c", "10", quick=quick
    )
    check(worker, hub)
    record("start to ping", worker.seconds_to_answer)


def test_python_m_celery(shell: Shell, installed: Venv, hub: str) -> None:
    # -P is an option of the interpreter, too (3.11: leave the folder of the script out).
    worker = shell.start(
        *(installed, "python", "-B", "-m", "celery"),
        *("-A", "proj", "worker", "-P", f"hybrid.{hub}", "-c", "10"),
    )
    check(worker, hub)


def test_an_option_of_the_interpreter_is_no_pool(shell: Shell, installed: Venv) -> None:
    found = shell.run(installed, "python", "--version").stdout
    if tuple(map(int, found.split()[1].split(".")[:2])) < (3, 11):
        pytest.skip("the interpreter has got -P since 3.11")
    worker = shell.start(
        *(installed, "python", "-P", "-m", "celery"),
        *("-A", "proj", "worker", "-P", "hybrid.gevent", "-c", "10"),
    )
    check(worker, "gevent")


def test_a_queue_called_multi_is_no_celery_multi(shell: Shell, installed: Venv) -> None:
    worker = shell.start(
        installed, "celery", "-A", "proj", "worker", "-Q", "multi", "-P", "hybrid.gevent", "-c", "9"
    ).ready()
    assert worker.sockets == [SOCKETS["gevent"]]


@pytest.mark.parametrize("app_first", [False, True], ids=["worker -A", "-A worker"])
def test_python_m_hybrid(shell: Shell, installed: Venv, hub: str, app_first: bool) -> None:
    command = ["-A", "proj", "worker"] if app_first else ["worker", "-A", "proj"]
    worker = shell.start(
        installed, "python", "-m", "hybrid", *command, "-P", f"hybrid.{hub}", "-c", "10"
    )
    check(worker, hub)


def test_a_script_that_patches(shell: Shell, installed: Venv, hub: str) -> None:
    worker = shell.start(
        *(installed, "python", str(APPS / "run.py")),
        *(f"patch={hub}", f"pool=hybrid.{hub}", "-c", "10"),
    )
    check(worker, hub)


def test_a_script_with_the_option_on_its_own_command_line(
    shell: Shell, installed: Venv, hub: str
) -> None:
    worker = shell.start(
        installed, "python", str(APPS / "run.py"), "-P", f"hybrid.{hub}", "-c", "10"
    ).ready()
    # Nothing tells such a script from others until it imports Celery. That is the moment.
    assert worker.sockets == ["socket"]
    assert worker.call("sockets") == SOCKETS[hub]
    assert worker.pool_stats()["implementation"] == f"hybrid.{hub}:TaskPool"


@pytest.mark.parametrize("setting", ["hybrid.{}", "hybrid.{}:TaskPool"])
def test_the_setting_beside_the_option(
    shell: Shell, installed: Venv, hub: str, setting: str
) -> None:
    worker = shell.start(
        *(installed, "celery", "-A", "proj", "worker", "-P", f"hybrid.{hub}", "-c", "10"),
        settings={"worker_pool": setting.format(hub)},
    )
    check(worker, hub)


@pytest.mark.parametrize("setting", ["hybrid.{}", "hybrid.{}:TaskPool"])
def test_the_setting_in_a_script_that_patches(
    shell: Shell, installed: Venv, hub: str, setting: str
) -> None:
    worker = shell.start(
        *(installed, "python", str(APPS / "run.py"), f"patch={hub}", "-c", "10"),
        settings={"worker_pool": setting.format(hub)},
    )
    check(worker, hub)


def test_celerys_own_variable_for_other_pools(shell: Shell, installed: Venv, hub: str) -> None:
    worker = shell.start(
        *(installed, "celery", "-A", "proj", "worker", "-P", "custom", "-c", "10"),
        env={"CELERY_CUSTOM_WORKER_POOL": f"hybrid.{hub}:TaskPool"},
    )
    check(worker, hub)


# --- in the background ----------------------------------------------------------------------------


class Background:
    """A worker that left its terminal: what is known of it is in its pid and log files."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.pidfile = shell.folder / "w1.pid"
        self.log = shell.folder / "w1.log"
        self.files = (f"--pidfile={self.pidfile}", f"--logfile={self.log}", "--loglevel=INFO")

    def check(self, hub: str) -> None:
        eventually(lambda: self.log.exists() and "ready." in self.log.read_text(), "w1 to be ready")
        inspect = self.shell.client.control.inspect(["w1@test"], timeout=10)
        assert inspect.stats()["w1@test"]["pool"]["implementation"] == f"hybrid.{hub}:TaskPool"
        assert self.shell.client.signature("sockets").delay().get(timeout=10) == SOCKETS[hub]

    def check_gone(self) -> None:
        eventually(lambda: not self.pidfile.exists(), "the worker to end")
        assert "Traceback" not in self.log.read_text()


@pytest.fixture
def background(shell: Shell) -> Iterator[Background]:
    made = Background(shell)
    yield made
    if made.pidfile.exists():
        shell.signal(int(made.pidfile.read_text()), signal.SIGKILL)


def test_celery_multi(shell: Shell, installed: Venv, hub: str, background: Background) -> None:
    node = ("w1@test", "-A", "proj", "-P", f"hybrid.{hub}", "-c", "10", *background.files)
    started = shell.run(installed, "celery", "multi", "start", *node)
    assert started.code == 0, started.stderr
    background.check(hub)
    stopped = shell.run(installed, "celery", "multi", "stopwait", *node)
    assert stopped.code == 0, stopped.stderr
    background.check_gone()


def test_detaching(shell: Shell, installed: Venv, hub: str, background: Background) -> None:
    detach = {"gevent": "-D", "eventlet": "--detach"}[hub]
    started = shell.run(
        *(installed, "celery", "-A", "proj", "worker", "-P", f"hybrid.{hub}", "-c", "10"),
        *("-n", "w1@test", detach, *background.files),
    )
    assert started.code == 0, started.stderr
    background.check(hub)


# --- without the start-up file --------------------------------------------------------------------


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory, plain: Venv, wheel: Path) -> str:
    """A folder that ``pip install --target`` has filled: Python runs no start-up files there."""
    folder = str(tmp_path_factory.mktemp("target"))
    plain.install(wheel, "--no-deps", "--target", folder)
    return folder


def test_python_m_hybrid_needs_no_start_up_file(
    shell: Shell, plain: Venv, hub: str, target: str
) -> None:
    worker = shell.start(
        *(plain, "python", "-m", "hybrid", "worker", "-A", "proj", "-P", f"hybrid.{hub}"),
        *("-c", "10"),
        env={"PYTHONPATH": target},
    )
    check(worker, hub)
    assert "imported before" not in worker.child.output()


def test_python_m_hybrid_detaches_without_start_up_file(
    shell: Shell, plain: Venv, target: str, background: Background
) -> None:
    started = shell.run(
        *(plain, "python", "-m", "hybrid", "worker", "-A", "proj", "-P", "hybrid.gevent"),
        *("-c", "10", "-n", "w1@test", "-D", *background.files),
        env={"PYTHONPATH": target},
    )
    assert started.code == 0, started.stderr
    background.check("gevent")


def test_a_script_that_patches_needs_no_start_up_file(
    shell: Shell, plain: Venv, hub: str, target: str
) -> None:
    worker = shell.start(
        *(plain, "python", str(APPS / "run.py")),
        *(f"patch={hub}", f"pool=hybrid.{hub}", "-c", "10"),
        env={"PYTHONPATH": target},
    )
    check(worker, hub)


def has_restarted(worker: Started) -> bool:
    return len(worker.sockets) == 2


def test_hangup_restarts_the_worker(
    shell: Shell, installed: Venv, plain: Venv, target: str
) -> None:
    command = ("-A", "proj", "worker", "-P", "hybrid.gevent", "-c", "10")
    workers = [
        shell.start(installed, "celery", *command),
        shell.start(installed, "python", "-m", "hybrid", *command),
        shell.start(plain, "python", "-m", "hybrid", *command, env={"PYTHONPATH": target}),
    ]
    for worker in workers:
        worker.ready().child.send_signal(signal.SIGHUP)
    for worker in workers:
        eventually(partial(has_restarted, worker), "the second import of proj")
        check(worker, "gevent")
