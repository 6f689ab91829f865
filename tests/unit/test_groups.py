"""Tests run in several processes as they do in one."""

from __future__ import annotations

import pytest


def test_tests_of_a_group_stay_together(request: pytest.FixtureRequest) -> None:
    """Otherwise each process starts every shared worker, and not once."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("there is one process only: --numprocesses")
    assert request.node.nodeid.endswith("@test_groups")
