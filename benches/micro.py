"""Calls of a few microseconds, stock's against ours, in rounds."""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import timeit
from pathlib import Path
from typing import Any, Callable

Call = Callable[[], Any]


def compare(
    title: str, stock: str, packages: tuple[str, ...], cases: dict[str, tuple[int, int, Call, Call]]
) -> None:
    """Measure ``cases`` as the command line says, and print the medians and the ratios.

    Args:
        title: One line for ``--help``.
        stock: What stock's side is called.
        packages: Whose versions are kept with the figures.
        cases: By name: calls in a round, items in a call, stock's call and ours.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()

    results = {}
    gc.disable()  # both sides allocate the same objects
    for name, (number, items, *sides) in cases.items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.rounds):
            for side, series in zip(sides, times):
                series.append(timeit.timeit(side, number=number) / number / items * 1e6)
        results[name] = {
            f"{stock}_us": round(statistics.median(times[0]), 3),
            "hybrid_us": round(statistics.median(times[1]), 3),
            "ratio": round(statistics.median(a / h for a, h in zip(*times)), 2),
        }

    print(f"{'':32}{stock + ' µs':>11}{'hybrid µs':>11}{'ratio':>8}")
    for name, row in results.items():
        print(f"{name:32}{row[stock + '_us']:11.2f}{row['hybrid_us']:11.2f}{row['ratio']:8.2f}")
    if options.json:
        report = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
            "python": platform.python_version(),
            "versions": {package: importlib.metadata.version(package) for package in packages},
            "rounds": options.rounds,
            "results": results,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
