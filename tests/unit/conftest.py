"""What the unit tests share: no broker, no patching in this process, milliseconds each.

Tests that need a patched interpreter live in ``green/``; ``test_green.py`` runs them in children.
"""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than 0.25 s")
