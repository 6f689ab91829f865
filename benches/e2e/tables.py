"""A kept run as tables: ``python -m benches.e2e.tables benches/results/e2e-redis.json``.

The ratio of a hybrid pool is to the stock pool of the same hub, in the same run, or to the same
pool of the interpreter that was named by ``--before``; then ``@again`` is that one once more.
"never" is the latency of tasks that a pool had not done when the time was up.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from . import kept
from .scenarios import SCENARIOS, reference


@dataclass(frozen=True)
class Column:
    """One figure in a table.

    Attributes:
        figure: Its name in the samples.
        heading: First line of the heading.
        unit: Second line of it.
        better: ``more`` or ``less`` where the ratio to stock follows, which is above 1 if ours is
            better.
        with_spread: Whether the lowest and highest follow.
    """

    figure: str
    heading: str
    unit: str = ""
    better: str = ""
    with_spread: bool = False


_RATE = Column("tasks_per_s", "tasks/s", better="more", with_spread=True)
_COST = (
    Column("worker_cpu_us", "worker", "µs/task", better="less"),
    Column("broker_cpu_us", "broker", "µs/task"),
    Column("proxy_cpu_us", "proxy", "µs/task"),
    Column("peak_rss_mb", "peak", "MB"),
    Column("commands", "commands", "a task"),
    Column("round_trips", "trips", "a task"),
    Column("connections", "opened", "in all"),
    Column("connections_at_once", "open", "at once"),
)


def _latency(name: str, heading: str) -> tuple[Column, ...]:
    return (
        Column(f"{name}_p50_ms", heading, "p50 ms", better="less"),
        Column(f"{name}_p99_ms", "", "p99 ms", better="less"),
        Column(f"{name}_p999_ms", "", "p99.9 ms"),
    )


COLUMNS = {
    "drain": (_RATE, *_COST),
    "eta": (_RATE, *_latency("late", "too late"), *_COST),
    "held": (
        Column("held_bytes", "held", "bytes/task", better="less"),
        Column("accepted_per_cpu_s", "accepted", "a CPU second", better="more"),
        Column("accept_seconds", "all taken", "seconds"),
        Column("behind_seconds", "1000 behind", "seconds", better="less"),
        Column("behind_worker_cpu_us", "worker", "µs each"),
        Column("behind_broker_cpu_us", "broker", "µs each"),
        Column("revoke_seconds", "revoke", "seconds"),
        Column("end_seconds", "give back", "seconds"),
        Column("peak_rss_mb", "peak", "MB"),
    ),
    "flood": (*_latency("late", "too late"), Column("out_of_order", "swapped"), *_COST),
    "paced": (*_latency("start", "to start"), *_latency("result", "to result"), *_COST),
    "idle": (
        Column("idle_cpu_percent", "idle", "CPU %"),
        Column("idle_commands_per_s", "commands", "a second"),
        Column("start_p50_ms", "to start", "p50 ms", better="less"),
        Column("start_max_ms", "", "worst ms"),
        Column("peak_rss_mb", "peak", "MB"),
    ),
    "crawl": (
        Column("feeds_per_s", "feeds/s", better="more", with_spread=True),
        Column("tasks_per_s", "tasks/s"),
        *_COST,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("result", type=Path, nargs="+")
    for path in parser.parse_args(arguments).result:
        print("\n".join(lines(kept.read(path))))
    return 0


def keep(path: Path, result: dict[str, Any]) -> None:
    """Write a run that is over to ``path``, and print its tables."""
    kept.write(path, result)
    print("\n".join(lines(result)))
    print(f"\nevery sample is in {path}")


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield the whole run, a table for each scenario and link."""
    yield describe(result)
    for (name, link), rows in groupby(kept.rows(result), lambda row: (row.scenario, row.link)):
        group = list(rows)
        yield ""
        yield f"{name}: {SCENARIOS[name].what}; {link_text(link)}"
        yield from _aligned(_table(group, COLUMNS[SCENARIOS[name].kind]))


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
    return f"through a proxy that adds {link} ms"


def _table(rows: list[kept.Row], columns: Sequence[Column]) -> Iterator[list[str]]:
    by_pool = {row.pool: row for row in rows}
    shown = [column for column in columns if any(row.values(column.figure) for row in rows)]
    has_ratio = any(row.pool != reference(row.pool, by_pool) for row in rows)
    heading, units = ["pool", "-c"], ["", ""]
    for column in shown:
        heading.append(column.heading)
        units.append(column.unit)
        if column.with_spread:
            heading.append("")
            units.append("")
        if column.better and has_ratio:
            heading.append("ratio")
            units.append("")
    yield heading
    if any(units):
        yield units
    for row in rows:
        cells = [row.pool, str(row.concurrency)]
        if not row.samples:
            yield [*cells, "nothing measured"]
            continue
        stock = by_pool.get(reference(row.pool, by_pool))
        for column in shown:
            cells.append(short(row.median(column.figure)))
            if column.with_spread:
                cells.append(spread(row.values(column.figure)))
            if column.better and has_ratio:
                cells.append(ratio(row, stock, column))
        yield cells


def ratio(row: kept.Row, stock: kept.Row | None, column: Column) -> str:
    """Return how many times better the row is than stock's."""
    if stock is None or stock is row:
        return ""
    ours, theirs = row.median(column.figure), stock.median(column.figure)
    if not ours or not theirs or math.isinf(ours) or math.isinf(theirs):
        return ""
    times = ours / theirs if column.better == "more" else theirs / ours
    return f"{times:.1f}x" if times >= 1.95 else f"{times:.2f}x"


def spread(values: Sequence[float]) -> str:
    return f"({short(min(values))} - {short(max(values))})" if values else ""


def short(value: float | None) -> str:
    """Return three or more digits, without an exponent."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "never"
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
