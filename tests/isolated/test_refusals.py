"""Where a worker cannot be started, one sentence says what to type instead, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest
from shell import APPS, Shell
from venvs import Venv

Record = Callable[[str, float], None]


def test_python_m_hybrid_without_a_pool(shell: Shell, installed: Venv) -> None:
    done = shell.run(installed, "python", "-m", "hybrid", "worker", "-A", "proj")
    done.stopped_with_one_sentence("no pool is named", "python -m hybrid worker -A proj -P")


def test_python_m_hybrid_with_a_pool_of_celery(shell: Shell, installed: Venv) -> None:
    done = shell.run(installed, "python", "-m", "hybrid", "worker", "-A", "proj", "-P", "gevent")
    done.stopped_with_one_sentence("'gevent' is none of ours", "-P hybrid.gevent")


def test_a_script_that_does_not_patch(
    shell: Shell, installed: Venv, hub: str, record: Record
) -> None:
    done = shell.run(installed, "python", str(APPS / "run.py"), f"pool=hybrid.{hub}")
    done.stopped_with_one_sentence(
        f"hybrid.{hub}: sockets are not patched",
        f'"celery -A proj worker -P hybrid.{hub}"',
        f'hybrid.patch("{hub}")',
    )
    record("to the sentence", done.wall_seconds)


@pytest.mark.parametrize("setting", ["hybrid.{}", "hybrid.{}:TaskPool"])
@pytest.mark.parametrize("way", ["celery", "worker_main"])
def test_the_setting_alone(
    shell: Shell, installed: Venv, hub: str, setting: str, way: str, record: Record
) -> None:
    command = {
        "celery": ["celery", "-A", "proj", "worker"],
        "worker_main": ["python", str(APPS / "run.py")],
    }[way]
    done = shell.run(installed, *command, settings={"worker_pool": setting.format(hub)})
    done.stopped_with_one_sentence(f"hybrid.{hub}: sockets are not patched", f"-P hybrid.{hub}")
    record("to the sentence", done.wall_seconds)


def test_pip_install_target(
    shell: Shell, plain: Venv, hub: str, wheel: Path, tmp_path: Path
) -> None:
    target = str(tmp_path / "target")
    plain.install(wheel, "--no-deps", "--target", target)
    done = shell.run(
        *(plain, "python", "-m", "celery", "-A", "proj", "worker", "-P", f"hybrid.{hub}"),
        env={"PYTHONPATH": target},
    )
    done.stopped_with_one_sentence(f'"python -m hybrid worker -A proj -P hybrid.{hub}"')


def test_the_start_up_file_can_be_switched_off(shell: Shell, installed: Venv, hub: str) -> None:
    done = shell.run(
        *(installed, "celery", "-A", "proj", "worker", "-P", f"hybrid.{hub}"),
        env={"HYBRID_NO_BOOT": "1"},
    )
    done.stopped_with_one_sentence(f'"python -m hybrid worker -A proj -P hybrid.{hub}"')


def test_a_process_that_is_patched_for_the_other_hub(
    shell: Shell, installed: Venv, hub: str
) -> None:
    other = {"gevent": "eventlet", "eventlet": "gevent"}[hub]
    done = shell.run(
        *(installed, "python", str(APPS / "run.py")),
        *(f"patch={other}", "-P", f"hybrid.{hub}"),
    )
    done.stopped_with_one_sentence(
        f"hybrid.{hub}: this process is already patched for {other}", f"-P hybrid.{other}"
    )


@pytest.mark.parametrize("way", ["celery", "python -m hybrid", "hybrid.patch"])
def test_a_hub_that_is_not_installed(
    shell: Shell, wheel: Path, hub: str, way: str, tmp_path: Path
) -> None:
    other = {"gevent": "eventlet", "eventlet": "gevent"}[hub]
    without = Venv(tmp_path / "without", ["celery", "kombu[redis]", other])
    without.install(wheel)
    command = {
        "celery": ["celery", "-A", "proj", "worker", "-P", f"hybrid.{hub}"],
        "python -m hybrid": ["python", "-m", "hybrid", "worker", "-Aproj", "-P", f"hybrid.{hub}"],
        "hybrid.patch": ["python", "-c", f"import hybrid; hybrid.patch({hub!r})"],
    }[way]
    done = shell.run(without, *command)
    done.stopped_with_one_sentence(f"pip install 'celery-hybrid[{hub}]'")


def test_a_hub_that_nobody_knows(shell: Shell, installed: Venv) -> None:
    done = shell.run(installed, "python", "-c", "import hybrid; hybrid.patch('asyncio')")
    done.stopped_with_one_sentence("'asyncio'", "gevent or eventlet")
