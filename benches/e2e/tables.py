"""A kept run as tables: ``python -m benches.e2e.tables benches/results/e2e-redis.json``.

The ratio of a hybrid pool is to the stock pool of the same hub, in the same run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from . import kept
from .scenarios import SCENARIOS, stock_of

COUNTED = ("commands", "round_trips", "connections", "connections_at_once")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("result", type=Path, nargs="+")
    for path in parser.parse_args(arguments).result:
        print("\n".join(lines(kept.read(path))))
    return 0


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield the whole run, a table for each scenario and link."""
    yield describe(result)
    for (name, link), group in groupby(kept.rows(result), lambda row: (row.scenario, row.link)):
        yield ""
        yield f"{name}: {SCENARIOS[name].what}; {link_text(link)}"
        yield from _aligned(_throughput(list(group)))


def describe(result: dict[str, Any]) -> str:
    machine, versions = result["machine"], result["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        f"{result['date']}, commit {result['commit']}, {machine['cpu']}, {machine['cores']} cores\n"
        f"{packages}\nmedian of {result['repeats']} (lowest - highest)"
    )


def link_text(link: str) -> str:
    if link == "direct":
        return "loopback"
    return f"through the proxy, which adds {link} ms to a round trip"


def _throughput(rows: list[kept.Row]) -> Iterator[list[str]]:
    by_pool = {row.pool: row for row in rows}
    yield [
        *("pool", "-c", "tasks/s", "", "ratio", "worker", "ratio", "broker", "peak"),
        *("commands", "trips", "connections", ""),
    ]
    yield [
        *("", "", "", "", "", "µs/task", "", "µs/task", "MB", "a task", "a task"),
        *("in all", "at once"),
    ]
    for row in rows:
        stock = by_pool.get(stock_of(row.pool))
        cells = [row.pool, str(row.concurrency)]
        if not row.samples:
            yield [*cells, "failed"]
            continue
        yield [
            *cells,
            short(row.median("tasks_per_s")),
            spread(row.values("tasks_per_s")),
            _ratio(row, stock, "tasks_per_s"),
            short(row.median("worker_cpu_us")),
            _ratio(stock, row, "worker_cpu_us") if stock is not row else "",
            short(row.median("broker_cpu_us")),
            short(row.median("peak_rss_mb")),
            *(short(row.median(figure)) for figure in COUNTED),
        ]


def _ratio(over: kept.Row | None, under: kept.Row | None, figure: str) -> str:
    if over is None or under is None or over is under:
        return ""
    above, below = over.median(figure), under.median(figure)
    return f"{above / below:.1f}x" if above and below else ""


def spread(values: Sequence[float]) -> str:
    return f"({short(min(values))} - {short(max(values))})" if values else ""


def short(value: float | None) -> str:
    """Return three or more digits, without an exponent."""
    if value is None:
        return "-"
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _aligned(table: Iterable[list[str]]) -> Iterator[str]:
    rows = list(table)
    columns = max(map(len, rows))
    full = [row + [""] * (columns - len(row)) for row in rows]
    widths = [max(len(row[column]) for row in full) for column in range(columns)]
    for row in full:
        first, *others = zip(row, widths)
        cells = [f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]
        yield ("  " + "  ".join(cells)).rstrip()


if __name__ == "__main__":
    sys.exit(main())
