"""Until a pool is started nothing is open, so that a supervisor can fork."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("before_start.py")


@pytest.mark.slow
@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
def test_a_pool_that_is_not_started_has_nothing_open(hub: str) -> None:
    pytest.importorskip(hub)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, hub], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["made"] == said["before"]
    assert not said["is_running"]
    works = {"job": True, "timer": True}
    assert said["children"] == [works, works]
    assert said["parent"] == works
