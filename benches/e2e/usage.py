"""CPU time and memory of processes, read from outside."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path


def session(leader: int) -> list[int]:
    """Return the process ``leader`` and all it has started, prefork's children included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader:
                    found.append(int(entry.name))
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return user and system time so far.

    From the processes' CPU clocks, which are what ``utime`` and ``stime`` in ``/proc/PID/stat``
    are made from, but to the nanosecond; those tick every 10 ms.
    """
    seconds = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            # The clock's id as clock_getcpuclockid(3) makes it: ~pid, and 2 for CPUCLOCK_SCHED.
            seconds += time.clock_gettime((~pid << 3) | 2)
    return seconds


def peak_rss_mb(pids: Iterable[int]) -> float:
    """Return the sum of peak resident sets; pages that processes share count for each of them."""
    return _kilobytes("VmHWM:", pids) / 1024


def rss_bytes(pids: Iterable[int]) -> int:
    """Return the sum of resident sets at this moment."""
    return _kilobytes("VmRSS:", pids) * 1024


def _kilobytes(field: str, pids: Iterable[int]) -> int:
    kilobytes = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(field):
                    kilobytes += int(line.split()[1])
    return kilobytes
