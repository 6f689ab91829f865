"""What patching warns of, and what it does not."""

from __future__ import annotations

import pytest
from shell import APPS, SOCKETS, Shell
from venvs import Venv


def test_patching_late_names_the_modules_that_were_early(
    shell: Shell, installed: Venv, hub: str
) -> None:
    done = shell.run(
        *(installed, "python", "-c"),
        f"import celery, kombu, redis, hybrid; hybrid.patch({hub!r}); print('patched')",
    )
    assert done.stdout == "patched\n"
    warnings = [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]
    assert len(warnings) == 1, done.stderr
    assert f"hybrid.{hub}: celery, kombu" in warnings[0]
    assert "redis" in warnings[0]
    assert f'call hybrid.patch("{hub}") before any other import' in warnings[0]


def test_a_late_worker_warns_and_works(shell: Shell, installed: Venv) -> None:
    worker = shell.start(
        installed, "python", str(APPS / "run.py"), "late=gevent", "pool=hybrid.gevent", "-c", "10"
    ).ready()
    assert "RuntimeWarning: hybrid.gevent: celery, kombu" in worker.child.output()
    assert worker.pool_stats()["implementation"] == "hybrid.gevent:TaskPool"


def test_patching_twice_does_nothing(shell: Shell, installed: Venv, hub: str) -> None:
    done = shell.run(
        *(installed, "python", "-W", "error::RuntimeWarning", "-c"),
        f"import hybrid; hybrid.patch({hub!r}); import celery; hybrid.patch({hub!r})",
    )
    assert (done.code, done.stderr) == (0, "")


def test_gevent_finds_nothing_to_warn_of(shell: Shell, installed: Venv) -> None:
    worker = shell.start(
        *(installed, "python", "-W", "error::gevent.monkey.MonkeyPatchWarning"),
        *("-m", "celery", "-A", "proj", "worker", "-P", "hybrid.gevent", "-c", "10"),
        # Python resolves the category before site has run.
        env={"PYTHONPATH": str(installed.site_packages)},
    ).ready()
    assert "Invalid -W option" not in worker.child.output()
    assert "MonkeyPatchWarning" not in worker.child.output()
    assert worker.sockets == [SOCKETS["gevent"]]


@pytest.mark.parametrize(
    "early", ["import celery", "from celery import Celery, signals", "import celery.concurrency"]
)
def test_tracers_that_import_celery_first_do_no_harm(
    shell: Shell, installed: Venv, early: str
) -> None:
    (shell.folder / "sitecustomize.py").write_text(f"{early}\n")
    worker = shell.start(
        *(installed, "celery", "-A", "proj", "worker", "-P", "hybrid.gevent", "-c", "10"),
        env={"PYTHONPATH": str(shell.folder)},
    ).ready()
    assert "Traceback" not in worker.child.output()
    assert worker.sockets == [SOCKETS["gevent"]]


def test_start_up_files_that_import_celery_before_ours_are_warned_of(
    shell: Shell, wheel: object, installed: Venv
) -> None:
    early = installed.site_packages / "aaa_tracer.pth"
    early.write_text("import celery, celery.concurrency\n")
    try:
        worker = shell.start(
            installed, "celery", "-A", "proj", "worker", "-P", "hybrid.gevent", "-c", "10"
        ).ready()
    finally:
        early.unlink()
    assert "RuntimeWarning: hybrid.gevent: celery, kombu" in worker.child.output()
    assert "Traceback" not in worker.child.output()
    assert worker.sockets == [SOCKETS["gevent"]]


def test_other_finders_see_the_module_that_we_wait_for(shell: Shell, installed: Venv) -> None:
    """Tracers wrap loaders, too: whoever comes first, both get their turn."""
    (shell.folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'celery.concurrency':\n"
        "            print('tracer sees', name, flush=True)\n"
        "sys.meta_path.append(Finder())\n"
        "sys.meta_path.insert(1, sys.meta_path.pop())\n"
    )
    worker = shell.start(
        *(installed, "celery", "-A", "proj", "worker", "-P", "hybrid.gevent", "-c", "10"),
        env={"PYTHONPATH": str(shell.folder)},
    ).ready()
    assert worker.child.output().count("tracer sees celery.concurrency") == 1
