"""Threads that a tracer, a debugger or a start-up file runs before Celery do not hang the start."""

from __future__ import annotations

import pytest
from shell import APPS, SOCKETS, Shell, Started
from venvs import Venv

ONE_SLEEPS = """\
import threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""

TEN_ARE_BUSY = """\
import logging, threading, time
lock, event, logger = threading.RLock(), threading.Event(), logging.getLogger("tracer")
def hold():
    with lock:
        time.sleep(60)
def log():
    while True:
        logger.debug("a line")
        time.sleep(0.001)
def serve():
    time.sleep(60)
targets = [hold, hold, log, log, event.wait, event.wait, serve, serve, serve, serve]
for target in targets:
    threading.Thread(target=target, daemon=True).start()
"""

ONE_IMPORTS = """\
import threading
threading.Thread(target=__import__, args=("slow",), daemon=True).start()
"""

#: Holds its lock when the libraries are ready to patch, and for a while afterwards.
SLOW = """\
import sys, time
while not {"gevent.monkey", "eventlet.patcher"} & set(sys.modules):
    time.sleep(0.01)
time.sleep(0.5)
print("slow has been imported", flush=True)
"""

ONE_OUTSIDE_THREADING = """\
import _thread, time
_thread.start_new_thread(time.sleep, (60,))
"""

#: Of which Python knows nothing, as of a tracer's that are written in another language.
ONE_WITHOUT_PYTHON = """\
import ctypes
libc = ctypes.CDLL(None)
libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, libc.pause, None)
"""

THREADS = {
    "one sleeps": ONE_SLEEPS,
    "ten are busy": TEN_ARE_BUSY,
    "one imports": ONE_IMPORTS,
    "one outside threading": ONE_OUTSIDE_THREADING,
    "one without Python": ONE_WITHOUT_PYTHON,
}


def with_threads(shell: Shell, threads: str) -> dict[str, str]:
    """Return the environment in which ``threads`` run before anything of Celery is imported."""
    (shell.folder / "sitecustomize.py").write_text(threads)
    (shell.folder / "slow.py").write_text(SLOW)
    return {"PYTHONPATH": str(shell.folder)}


def check(worker: Started, hub: str) -> None:
    worker.ready()
    assert set(worker.sockets) == {SOCKETS[hub]}
    assert worker.pool_stats()["implementation"] == f"hybrid.{hub}:TaskPool"
    assert worker.call("add", 2, 3) == 5
    assert "imported before" not in worker.child.output()
    assert "cannot release" not in worker.child.output()


@pytest.mark.thorough(command="python -m celery", threads=tuple(THREADS.keys() - {"one imports"}))
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("command", ["celery", "python -m celery"])
def test_the_celery_command_starts(
    shell: Shell, installed: Venv, hub: str, command: str, threads: str
) -> None:
    worker = shell.start(
        *(installed, *command.split(), "-A", "proj", "worker", "-P", f"hybrid.{hub}", "-c", "10"),
        env=with_threads(shell, THREADS[threads]),
        # The project imports what the thread is importing.
        settings={"imports": ["slow"]},
    )
    check(worker, hub)
    assert worker.child.output().count("slow has been imported") == 1


@pytest.mark.thorough(threads="one imports")
@pytest.mark.parametrize("threads", ["one sleeps", "one imports"])
def test_celerys_own_variable_for_other_pools_starts(
    shell: Shell, installed: Venv, hub: str, threads: str
) -> None:
    worker = shell.start(
        *(installed, "celery", "-A", "proj", "worker", "-P", "custom", "-c", "10"),
        env={
            **with_threads(shell, THREADS[threads]),
            "CELERY_CUSTOM_WORKER_POOL": f"hybrid.{hub}:TaskPool",
        },
    )
    check(worker, hub)


@pytest.mark.thorough(threads="one imports")
@pytest.mark.parametrize("threads", ["one sleeps", "one imports"])
def test_python_m_hybrid_starts(shell: Shell, installed: Venv, hub: str, threads: str) -> None:
    worker = shell.start(
        *(installed, "python", "-m", "hybrid", "worker", "-A", "proj", "-P", f"hybrid.{hub}"),
        *("-c", "10"),
        env=with_threads(shell, THREADS[threads]),
    )
    check(worker, hub)


def test_a_script_that_patches_starts(shell: Shell, installed: Venv, hub: str) -> None:
    worker = shell.start(
        *(installed, "python", str(APPS / "run.py")),
        *(f"patch={hub}", f"pool=hybrid.{hub}", "-c", "10"),
        env=with_threads(shell, ONE_SLEEPS),
    )
    check(worker, hub)


def test_a_script_with_the_option_on_its_own_command_line_starts_or_says_what_to_type(
    shell: Shell, installed: Venv, hub: str
) -> None:
    command = ("python", str(APPS / "run.py"), "-P", f"hybrid.{hub}", "-c", "10")
    env = with_threads(shell, ONE_SLEEPS)
    if hub == "eventlet":
        worker = shell.start(installed, *command, env=env).ready()
        assert worker.call("sockets") == SOCKETS[hub]
    else:
        done = shell.run(installed, *command, env=env)
        assert done.code == 1
        assert "hybrid.gevent: other threads ran when Celery was imported" in done.stderr
        assert 'call hybrid.patch("gevent") before any other import' in done.stderr


def test_a_tracer_that_imports_celery_starts(shell: Shell, installed: Venv, hub: str) -> None:
    worker = shell.start(
        *(installed, "celery", "-A", "proj", "worker", "-P", f"hybrid.{hub}", "-c", "10"),
        env=with_threads(shell, ONE_SLEEPS + "import celery\n"),
    )
    check(worker, hub)


def test_a_tracer_that_imports_all_of_celery_does_no_harm(
    shell: Shell, installed: Venv, hub: str
) -> None:
    worker = shell.start(
        *(installed, "celery", "-A", "proj", "worker", "-P", f"hybrid.{hub}", "-c", "10"),
        env=with_threads(shell, ONE_SLEEPS + "from celery import Celery, signals\n"),
    ).ready()
    assert worker.sockets == [SOCKETS[hub]]
    assert worker.call("add", 2, 3) == 5
    # While Celery was being imported, only eventlet could patch.
    is_warned = f"RuntimeWarning: hybrid.{hub}: celery, kombu" in worker.child.output()
    assert is_warned == (hub == "gevent")


def test_a_module_that_patches_while_it_is_imported_is_told(shell: Shell, installed: Venv) -> None:
    (shell.folder / "early.py").write_text("import hybrid\nhybrid.patch('gevent')\n")
    done = shell.run(
        *(installed, "python", "-c", "import early"), env=with_threads(shell, ONE_SLEEPS)
    )
    assert done.code == 1
    assert "hybrid.gevent: a module that is being imported cannot patch while" in done.stderr
    assert 'call hybrid.patch("gevent") in the file that Python runs' in done.stderr
    assert "cannot release" not in done.stderr
