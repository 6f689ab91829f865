"""The command line: which cells, in which order, with what progress, kept where."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import kept, tables
from .measuring import Bench, CellError, measure
from .scenarios import POOLS, SCENARIOS, Scenario, concurrency, limited
from .servers import MissingServerError, servers


@dataclass(frozen=True)
class Cell:
    """One place in the result."""

    scenario: Scenario
    link: str
    pool: str


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    cells = [
        Cell(limited(scenario, options.tasks), link, pool)
        for scenario in options.scenarios
        for link in options.delay
        for pool in options.pools
    ]
    folder = Path(tempfile.mkdtemp(prefix="hybrid-bench-"))
    try:
        with servers(folder, options.broker) as (broker, redis):
            bench = Bench(broker, redis, (broker.port, redis.port), None, folder, options.seconds)
            versions = {f"{server.name} server": server.version for server in {broker, redis}}
            result = {
                "title": f"end to end on {options.broker}",
                **kept.describe(versions),
                "broker": options.broker,
                "repeats": options.repeats,
                "seconds_per_cell": options.seconds,
                "rows": [as_row(cell) for cell in cells],
            }
            try:
                run_all(bench, cells, result, options)
            except KeyboardInterrupt:
                print("interrupted: what was measured is kept", file=sys.stderr)
    except MissingServerError as missing:
        print(missing, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    kept.write(options.output, result)
    print("\n".join(tables.lines(result)))
    print(f"\nevery sample is in {options.output}")
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benches.e2e",
        description="Drain tasks through real workers on a real broker, pool beside pool.",
        epilog="scenarios: " + "; ".join(f"{s.name}: {s.what}" for s in SCENARIOS.values()),
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="see below; all when left out"
    )
    parser.add_argument("--broker", choices=("redis", "rabbitmq"), default="redis")
    parser.add_argument(
        "--pools", type=lambda text: text.split(","), default=list(POOLS), help="comma between"
    )
    parser.add_argument("--repeats", type=int, help="rounds over all cells (5; quick: 2)")
    parser.add_argument("--tasks", type=int, help="per cell at most (by scenario; quick: 4000)")
    parser.add_argument("--seconds", type=float, help="per cell at most (8; quick: 3)")
    parser.add_argument(
        "--delay",
        type=lambda text: text.split(","),
        default=["direct"],
        metavar="MS",
        help="links to measure, comma between: direct, or milliseconds that a proxy adds to each "
        "round trip, 0 for what the proxy itself costs (direct)",
    )
    parser.add_argument("--quick", action="store_true", help="a short run, kept as *-quick.json")
    parser.add_argument("--output", type=Path, help="instead of benches/results/e2e-BROKER.json")
    options = parser.parse_args(arguments)
    quick = options.quick
    unknown = set(options.scenarios) - set(SCENARIOS) | set(options.pools) - set(POOLS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.scenarios = [
        scenario
        for scenario in SCENARIOS.values()
        if scenario.name in (options.scenarios or SCENARIOS) and options.broker in scenario.brokers
    ]
    options.repeats = options.repeats or (2 if quick else 5)
    options.seconds = options.seconds or (3.0 if quick else 8.0)
    options.tasks = options.tasks or (4000 if quick else None)
    name = f"e2e-{options.broker}{'-quick' if quick else ''}.json"
    options.output = options.output or kept.RESULTS / name
    return options


def as_row(cell: Cell) -> dict[str, Any]:
    return {
        "scenario": cell.scenario.name,
        "link": cell.link,
        "pool": cell.pool,
        "concurrency": concurrency(cell.scenario, cell.pool),
        "samples": [],
        "failures": [],
    }


def run_all(
    bench: Bench, cells: list[Cell], result: dict[str, Any], options: argparse.Namespace
) -> None:
    """Measure every cell once per repeat, so that a slow minute of the machine hits all pools."""
    total = len(cells) * options.repeats
    began = time.monotonic()
    for number in range(total):
        repeat, index = divmod(number, len(cells))
        # Who goes first in its scenario alternates: the second finds the machine warmer.
        if repeat % 2:
            index = _mirrored(index, len(options.pools))
        cell, row = cells[index], result["rows"][index]
        try:
            sample = measure(bench, cell.scenario, cell.pool)
        except CellError as error:
            row["failures"].append(str(error))
            said = f"failed: {error}"
        else:
            row["samples"].append(sample)
            said = _one_line(sample)
        left = (time.monotonic() - began) / (number + 1) * (total - number - 1)
        name = f"{cell.scenario.name}, {tables.link_text(cell.link)}, {cell.pool}"
        print(
            f"[{number + 1}/{total}] {name}: {said}; {left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )


def _mirrored(index: int, width: int) -> int:
    group, place = divmod(index, width)
    return group * width + width - 1 - place


def _one_line(sample: dict[str, Any]) -> str:
    said = f"{sample['tasks_per_s']:.0f}/s, {sample['worker_cpu_us']:.0f} µs"
    return said if sample["settled"] else f"{said}, {sample['tasks']} tasks in the time"
