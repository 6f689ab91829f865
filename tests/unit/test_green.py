"""Runs the tests in ``green/``, each file on each hub in an interpreter patched for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.green import run_green

GREEN = Path(__file__).parent / "green"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(GREEN.glob("test_*.py")), ids=lambda path: path.stem)
@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
def test_the_file_passes_on_the_hub(hub: str, path: Path) -> None:
    run_green(hub, path)
