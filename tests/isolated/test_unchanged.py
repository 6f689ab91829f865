"""Whoever does not ask for our pools does not notice us, and nothing stays when we go."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shell import SOCKETS, Shell
from venvs import PACKAGES, ROOT, Venv

STOCK = {"gevent": SOCKETS["gevent"], "prefork": "socket", "solo": "socket", "threads": "socket"}


@pytest.mark.parametrize("name", STOCK)
def test_stock_pools(shell: Shell, installed: Venv, name: str) -> None:
    worker = shell.start(installed, "celery", "-A", "proj", "worker", "-P", name, "-c", "2").ready()
    assert worker.sockets == [STOCK[name]]
    assert worker.call("add", 2, 3) == 5
    loaded = worker.call("modules", "hybrid")
    assert not {"hybrid.gevent", "hybrid.eventlet", "hybrid._rust"} & set(loaded)
    assert not [name for name in loaded if name.startswith(("hybrid.worker", "hybrid.hubs"))]


@pytest.mark.parametrize(
    "command",
    ["--help", "worker --help", "multi --help", "-A proj worker -P nonsense", "nonsense", "report"],
)
def test_the_celery_command_says_the_same(
    shell: Shell, installed: Venv, plain: Venv, command: str
) -> None:
    theirs = shell.run(plain, "celery", *command.split())
    ours = shell.run(installed, "celery", *command.split())
    assert ours.code == theirs.code
    assert ours.stdout == theirs.stdout
    assert ours.stderr == theirs.stderr


@pytest.mark.parametrize("code", ["pass", "import celery", "import celery.bin.base"])
def test_other_interpreters_import_nothing_of_ours(
    shell: Shell, installed: Venv, code: str
) -> None:
    code += "; import sys; print([m for m in sys.modules if 'hybrid' in m], sys.meta_path)"
    done = shell.run(installed, "python", "-c", code, "-P", "gevent", "worker")
    assert done.stdout.startswith("[] [<"), done.stdout
    assert "hybrid" not in done.stdout
    assert done.stderr == ""


def test_the_start_file_of_python_3_15_does_the_same_as_the_line(
    shell: Shell, installed: Venv
) -> None:
    """PEP 829: each line names a callable that site resolves and calls, without arguments."""
    entry = (installed.site_packages / "celery_hybrid_boot.start").read_text().strip()
    assert (installed.site_packages / "celery_hybrid_boot.pth").exists()  # the same name, so ours
    code = (
        f"import pkgutil, sys; sys.meta_path[:] = sys.meta_path[-3:]\n"
        f"for name in [name for name in sys.modules if name.startswith('hybrid')]:\n"
        f"    del sys.modules[name]\n"
        f"pkgutil.resolve_name({entry!r})(); pkgutil.resolve_name({entry!r})()\n"
        "print(str(sys.meta_path).count('_CeleryWatcher'), 'hybrid' in sys.modules)"
    )
    others = shell.run(installed, "python", "-c", code, "worker", "-P", "gevent")
    assert (others.stdout, others.stderr) == ("0 False\n", "")
    ours = shell.run(installed, "python", "-c", code, "worker", "-P", "hybrid.gevent")
    assert (ours.stdout, ours.stderr) == ("1 True\n", "")


def test_celery_multi_itself_is_not_patched(shell: Shell, installed: Venv) -> None:
    code = (
        "import sys; import celery; print('gevent' in sys.modules, 'hybrid' in str(sys.meta_path))"
    )
    done = shell.run(
        installed, "python", "-c", code, "multi", "start", "worker", "-P", "hybrid.gevent"
    )
    assert done.stdout == "False False\n"


def test_importing_the_package_imports_no_sockets_and_no_threads(
    shell: Shell, installed: Venv
) -> None:
    code = (
        "import sys; before = set(sys.modules); import hybrid;"
        "print(sorted(set(sys.modules) - before - {'__future__', 'hybrid'}))"
    )
    assert shell.run(installed, "python", "-c", code).stdout == "[]\n"


def test_uninstalling_leaves_no_file(shell: Shell, wheel: Path, tmp_path: Path) -> None:
    venv = Venv(tmp_path / "venv", PACKAGES)
    before = venv.files()
    venv.install(wheel)
    added = {Path(name).name for name in venv.files() - before}
    assert {"celery_hybrid_boot.pth", "celery_hybrid_boot.start", "celery_hybrid_boot.py"} <= added
    # Running it writes byte code, which is to go as well.
    assert shell.run(venv, "python", "-m", "hybrid", "--help").code == 0
    assert shell.run(venv, "python", "-m", "celery_hybrid_boot").code == 0
    venv.pip("uninstall", "--quiet", "--yes", "celery-hybrid")
    assert venv.files() == before
    done = shell.run(venv, "celery", "-A", "proj", "worker", "-P", "hybrid.gevent")
    assert done.code == 2
    assert "'hybrid.gevent' is not one of" in done.stderr


@pytest.fixture
def editable(tmp_path: Path) -> Iterator[Venv]:
    """An environment in which ``maturin develop`` has installed this very folder."""
    if not (shutil.which("cargo") and importlib.util.find_spec("maturin")):
        pytest.skip("needs cargo and maturin")
    before = set(ROOT.glob("python/hybrid/*.so"))
    venv = Venv(tmp_path / "venv", PACKAGES)
    subprocess.run(
        [
            *(sys.executable, "-m", "maturin", "develop", "--release", "--quiet"),
            *("--pip-path", str(Path(sys.executable).with_name("pip"))),
        ],
        cwd=ROOT,
        env={**os.environ, "VIRTUAL_ENV": str(venv.bin.parent), "PIP_NO_INDEX": "1"},
        check=True,
    )
    yield venv
    for built in set(ROOT.glob("python/hybrid/*.so")) - before:
        built.unlink()


@pytest.mark.thorough  # it compiles everything once more, for another interpreter: a minute
def test_an_editable_installation_has_the_start_up_file(shell: Shell, editable: Venv) -> None:
    worker = shell.start(
        editable, "celery", "-A", "proj", "worker", "-P", "hybrid.gevent", "-c", "10"
    ).ready()
    assert worker.sockets == [SOCKETS["gevent"]]
    assert worker.pool_stats()["implementation"] == "hybrid.gevent:TaskPool"
