"""Every way in which a worker is told to end, in every state in which that may reach it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

import pytest
from cell_records import Records
from failed import FAILED
from harness.brokers import Brokers
from matrix import Cell, every, pairwise
from right import findings
from run_cell import Run

#: Workers at a time.
AT_ONCE = 3

Check = Callable[[list[Cell]], None]


@pytest.fixture
def check(
    pytestconfig: pytest.Config, brokers: Brokers, log_folder: Path, stock_pools: bool
) -> Check:
    """Runs cells and fails for what is wrong in any of them."""
    prefix = "" if stock_pools else "hybrid."
    records = Records(pytestconfig.getoption("--signal-records"), prefix)

    def run(cell: Cell) -> list[str]:
        seen, tail = None, ""
        try:
            seen, tail = Run(cell, brokers, log_folder, f"{prefix}{cell.hub}").observe()
            wrong = findings(cell, seen)
        except Exception as exc:
            wrong = [f"{type(exc).__name__}: {exc}"]
        records.write(cell, wrong, seen)
        if wrong:
            print(f"--- {cell}\n{tail}")
        return [f"{cell}: {one}" for one in wrong]

    def check_them(cells: list[Cell]) -> None:
        left = [cell for cell in cells if not records.has_passed(cell)]
        for broker in {cell.broker for cell in left}:
            brokers.space(broker)  # started once, before the threads ask for it
        with ThreadPoolExecutor(AT_ONCE) as executor:
            wrong = [line for lines in executor.map(run, left) for line in lines]
        assert not wrong, "\n".join(["", *wrong])

    return check_them


@pytest.fixture
def stock_pools(pytestconfig: pytest.Config) -> bool:
    """Whether to look at what stock pools do."""
    return bool(pytestconfig.getoption("--stock-signals"))


@pytest.mark.timeout(0)  # each cell has its own bound
def test_a_worker_ends_as_it_is_told(pytestconfig: pytest.Config, check: Check) -> None:
    cells = every() if pytestconfig.getoption("--all-signals") else pairwise()
    if pytestconfig.getoption("--signal-records") is None:
        cells = FAILED
    wanted = pytestconfig.getoption("--signal-cells")
    check([cell for cell in cells if all(word in str(cell).split(" | ") for word in wanted)])
