"""What ran and when: one row per numbered task, in memory that worker and bench share.

A task stamps its row with three writes into a mapped file, some 0.2 µs altogether, on
every pool alike: rows have one writer each, so nothing is locked, counted or sent. The bench reads
the file without the worker noticing. Times are ``time.monotonic()``, one clock for all processes.
"""

from __future__ import annotations

import mmap
from pathlib import Path

VARIABLE = "HYBRID_BENCH_LEDGER"
"""Environment variable in which a worker finds the file."""

_DOUBLE = 8


class Ledger:
    """The rows ``0 … rows - 1``.

    Attributes:
        started: When the body of each task began, by number; 0 where it has not.
        ended: When it ended.
        runs: How often it ended, up to 255.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.rows = len(self._map) // (2 * _DOUBLE + 1)
        column = self.rows * _DOUBLE
        whole = memoryview(self._map)
        self.started = whole[:column].cast("d")
        self.ended = whole[column : 2 * column].cast("d")
        self.runs = whole[2 * column :]

    @classmethod
    def create(cls, path: Path, rows: int) -> Ledger:
        with path.open("wb") as file:
            file.truncate(rows * (2 * _DOUBLE + 1))
        return cls(path)

    def done(self, begin: int, end: int) -> int:
        """Count the tasks from ``begin`` up to, but not including, ``end`` that have ended."""
        return end - begin - bytes(self.runs[begin:end]).count(0)

    def repeated(self, begin: int, end: int) -> int:
        """Count those that ran more than once."""
        runs = bytes(self.runs[begin:end])
        return len(runs) - runs.count(0) - runs.count(1)
