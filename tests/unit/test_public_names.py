"""The names that the README tells users to type, and the places where they have been before.

Each is tried in an interpreter of its own, as the first thing that is done there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"

HUBS = ("gevent", "eventlet")
#: A module, and what is in it.
NAMES = (
    "hybrid.patch",
    "hybrid.JobKilled",
    "hybrid.__version__",
    "hybrid.errors.HybridError",
    "hybrid.errors.NotPatchedError",
    "hybrid.errors.WorkLostError",
)
#: What has moved, with the words that tell where to.
MOVED = {
    "hybrid.worker.pool.JobKilled": "use hybrid.JobKilled",
    "hybrid.worker.pool.TaskPool": "use hybrid.worker.execution.pool.TaskPool",
}
#: What kombu and Celery are told to import by name.
CLASSES = (
    "hybrid.transports.redis:Transport",
    "hybrid.transports.amqp:Transport",
    "hybrid.transports.amqp:SSLTransport",
    "hybrid.backends.redis:RedisBackend",
)


def python(script: str) -> str:
    """Return what a script prints; eventlet announces its retirement on every import."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore:::eventlet", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_where_it_is_said_to_be(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    script = f"""
import sys, warnings
warnings.simplefilter("error", DeprecationWarning)
from {module} import {attribute}
print({attribute} is not None, any(name in sys.modules for name in {HUBS}))
"""
    assert python(script) == "True False"


@pytest.mark.parametrize("name", MOVED)
def test_a_name_that_has_moved_says_where_it_is(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    script = f"""
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    from {module} import {attribute}
ours = [one for one in told if {module!r} in str(one.message)]
print(*{{f"{{one.category.__name__}}: {{one.message}}" for one in ours}})
from hybrid.worker.execution import pool
assert {attribute} is pool.{attribute}
"""
    told = python(script)
    assert told.startswith(f"DeprecationWarning: {name} has moved")
    assert MOVED[name] in told


@pytest.mark.parametrize("moved", [name for name in MOVED if "Pool" not in name])
def test_what_a_task_catches_by_its_old_name_is_what_it_is_ended_with(moved: str) -> None:
    module, _, attribute = moved.rpartition(".")
    script = f"""
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
import hybrid
from greenlet import GreenletExit
from {module} import {attribute} as former
assert former is hybrid.JobKilled
assert issubclass(former, GreenletExit) and not issubclass(former, Exception)
"""
    assert python(script) == ""


@pytest.mark.parametrize("hub", HUBS)
@pytest.mark.parametrize("spelling", ["hybrid.{}", "hybrid.{}:TaskPool"])
def test_celery_finds_the_pool_by_each_of_its_names(hub: str, spelling: str) -> None:
    script = f"""
import hybrid
hybrid.patch({hub!r})
from celery import concurrency
pool = concurrency.get_implementation({spelling.format(hub)!r})
from hybrid.{hub} import TaskPool
assert pool is TaskPool
# Once more: from now on the attribute of the package is the module.
assert concurrency.get_implementation({spelling.format(hub)!r}) is TaskPool
"""
    assert python(script) == ""


@pytest.mark.parametrize("hub", HUBS)
@pytest.mark.parametrize("name", CLASSES)
def test_what_is_imported_by_name_is_there(hub: str, name: str) -> None:
    script = f"""
import hybrid
hybrid.patch({hub!r})
from kombu.utils.imports import symbol_by_name
assert isinstance(symbol_by_name({name!r}), type)
"""
    assert python(script) == ""


def test_what_hybrid_disable_names_is_what_the_readme_lists() -> None:
    from hybrid.worker.settings import PIECES

    _, _, section = README.read_text().partition("and how to switch it off")
    table = section.partition("[ARCHITECTURE.md]")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) != []
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(PIECES)


def test_every_name_that_the_readme_speaks_of_is_tried() -> None:
    said = set(re.findall(r"\bhybrid(?:\.\w+)+(?::\w+)?", README.read_text()))
    pools = {
        spelling.format(hub) for hub in HUBS for spelling in ("hybrid.{}", "hybrid.{}:TaskPool")
    }
    assert said <= {*NAMES, *MOVED, *pools, *(name.replace(":", ".") for name in CLASSES)}
