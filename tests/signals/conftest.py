"""Options of the matrix of signals."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("celery-hybrid")
    group.addoption(
        "--signal-records",
        type=Path,
        help="folder with one JSON file per cell: what passed is skipped; without it, only those "
        "cells are run that are for every run",
    )
    group.addoption("--all-signals", action="store_true", help="all cells instead of pairs")
    group.addoption("--stock-signals", action="store_true", help="what the stock pools do")
    group.addoption(
        "--signal-cells",
        type=lambda text: text.split(","),
        default=[],
        help="comma-separated values that a cell has to have, as in QUIT,half-open",
    )
