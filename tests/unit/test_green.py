"""Runs the tests in ``green/``, each file on each hub in an interpreter patched for it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

GREEN = Path(__file__).parent / "green"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(GREEN.glob("test_*.py")), ids=lambda path: path.stem)
@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
def test_the_file_passes_on_the_hub(hub: str, path: Path) -> None:
    if importlib.util.find_spec(hub) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{hub} is not installed")
        pytest.skip(f"{hub} is not installed")
    child = subprocess.run(
        [sys.executable, GREEN / "run.py", hub, path, "--quiet", "--no-header", "--color=no"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    if child.returncode:
        pytest.fail(
            f"to run it alone: python tests/unit/green/run.py {hub} {path.name}\n\n{child.stdout}",
            pytrace=False,
        )
