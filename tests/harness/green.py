"""Runs tests that need a patched interpreter in a child."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run_green.py")


def run_green(hub: str, path: Path, **env: str) -> None:
    """Run the tests of the file ``path`` in an interpreter patched for ``hub``."""
    if importlib.util.find_spec(hub) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{hub} is not installed")
        pytest.skip(f"{hub} is not installed")
    child = subprocess.run(
        [sys.executable, RUN, hub, path, "--quiet", "--no-header", "--color=no"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        env={**os.environ, **env},
    )
    if child.returncode:
        pytest.fail(
            f"to run it alone: python tests/harness/run_green.py {hub} {path}\n\n{child.stdout}",
            pytrace=False,
        )
