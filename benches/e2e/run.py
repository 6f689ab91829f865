"""The command line: which cells, in which order, with what progress, kept where."""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import kept, tables
from .cell import ROOT, Bench, CellError
from .loads import measure
from .scenarios import AGAIN, BEFORE, POOLS, SCENARIOS, Scenario, concurrency, limited
from .servers import Broker, Child, MissingServerError, RedisServer, eventually, free_port, servers


@dataclass(frozen=True)
class Place:
    """One place in the result."""

    scenario: Scenario
    link: str
    pool: str


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    # What was measured is kept, and what was started is ended, however the run is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    places = [
        Place(limited(scenario, options.tasks), link, pool)
        for scenario in options.scenarios
        for link in options.delay
        for pool in options.pools
    ]
    folder = Path(tempfile.mkdtemp(prefix="hybrid-bench-"))
    try:
        with ExitStack() as stack:
            broker, redis = stack.enter_context(servers(folder, options.broker))
            benches = {
                link: stack.enter_context(linked(link, broker, redis, folder, options))
                for link in options.delay
            }
            versions = {f"{server.name} server": server.version for server in {broker, redis}}
            result = {
                "title": f"end to end on {options.broker}",
                **kept.describe(versions),
                "broker": options.broker,
                "repeats": options.repeats,
                "seconds_per_cell": options.seconds,
                "rows": [as_row(place) for place in places],
            }
            try:
                run_all(benches, places, result, options)
            except KeyboardInterrupt:
                print("interrupted: what was measured is kept", file=sys.stderr)
    except MissingServerError as missing:
        print(missing, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tables.keep(options.output, result)
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
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no repeat that would end later"
    )
    parser.add_argument("--repeats", type=int, help="rounds over all cells (5; quick: 2)")
    parser.add_argument(
        "--tasks",
        type=int,
        help="per cell at most, and just as many in held and flood (by scenario; quick: 10000)",
    )
    parser.add_argument("--seconds", type=float, help="per cell at most (6; quick: 3)")
    parser.add_argument(
        "--delay",
        type=lambda text: text.split(","),
        default=["direct"],
        metavar="MS",
        help="links to measure, comma between: direct, or milliseconds that a proxy adds to each "
        "round trip, 0 for what the proxy itself costs (direct)",
    )
    parser.add_argument(
        "--before",
        metavar="PYTHON",
        help="an interpreter with another celery-hybrid, the commit before: each hybrid pool is "
        "measured with it as well, twice, and the ratios are to the first of these",
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
    for link in options.delay:
        if link != "direct" and not link.replace(".", "", 1).isdigit():
            parser.error(f"--delay {link}: neither direct nor a number of milliseconds")
    if options.before:
        options.pools = [
            name
            for pool in options.pools
            for name in ((pool, pool + BEFORE, pool + AGAIN) if "." in pool else (pool,))
        ]
    options.repeats = options.repeats or (2 if quick else 5)
    options.seconds = options.seconds or (3.0 if quick else 6.0)
    options.tasks = options.tasks or (10_000 if quick else None)
    name = f"e2e-{options.broker}{'-quick' if quick else ''}.json"
    options.output = options.output or kept.RESULTS / name
    return options


@contextmanager
def linked(
    link: str, broker: Broker, redis: RedisServer, folder: Path, options: argparse.Namespace
) -> Iterator[Bench]:
    """Yield the bench over a link, with a proxy of its own unless it is direct."""
    of_run = folder, options.seconds, options.before
    if link == "direct":
        yield Bench(broker, redis, (broker.port, redis.port), None, *of_run)
        return
    ports = {server.port: free_port() for server in (broker, redis)}
    proxy = Child(
        [
            *(sys.executable, "-m", "benches.e2e.proxy", link),
            *(f"{port}:{target}" for target, port in ports.items()),
        ],
        log=folder / f"proxy-{link}.log",
        cwd=ROOT,
    )
    try:
        eventually(lambda: "ready" in proxy.output(), f"the proxy, see {proxy.log}")
        seen = ports[broker.port], ports[redis.port]
        yield Bench(broker, redis, seen, proxy.pid, *of_run)
    finally:
        proxy.stop()


def as_row(place: Place) -> dict[str, Any]:
    return {
        "scenario": place.scenario.name,
        "link": place.link,
        "pool": place.pool,
        "concurrency": concurrency(place.scenario, place.pool),
        "samples": [],
        "failures": [],
    }


def run_all(
    benches: dict[str, Bench],
    places: list[Place],
    result: dict[str, Any],
    options: argparse.Namespace,
) -> None:
    """Measure every place once per repeat, so that a slow minute of the machine hits all pools."""
    total = len(places) * options.repeats
    began = time.monotonic()
    for number in range(total):
        repeat, index = divmod(number, len(places))
        minutes = (time.monotonic() - began) / 60
        if repeat and not index:
            kept.write(options.output, result)
        if repeat and not index and minutes * (1 + 1 / repeat) > options.minutes:
            print(f"no time for repeat {repeat + 1}", file=sys.stderr)
            result["repeats"] = repeat
            break
        # Who goes first in its scenario alternates: the second finds the machine warmer.
        if repeat % 2:
            index = _mirrored(index, len(options.pools))
        place, row = places[index], result["rows"][index]
        try:
            sample = measure(benches[place.link], place.scenario, place.pool)
        except CellError as error:
            row["failures"].append(str(error))
            said = f"failed: {error}"
        else:
            row["samples"].append(sample)
            said = _one_line(sample)
        left = (time.monotonic() - began) / (number + 1) * (total - number - 1)
        name = f"{place.scenario.name}, {tables.link_text(place.link)}, {place.pool}"
        print(
            f"[{number + 1}/{total}] {name}: {said}; {left / 60:.1f} min left",
            file=sys.stderr,
            flush=True,
        )


def _mirrored(index: int, width: int) -> int:
    group, place = divmod(index, width)
    return group * width + width - 1 - place


def _one_line(sample: dict[str, Any]) -> str:
    if "held_bytes" in sample:
        return (
            f"{sample['held_bytes']:.0f} bytes held, {sample['accepted_per_cpu_s']:.0f} accepted "
            f"per CPU second, those behind done after {tables.short(sample['behind_seconds'])} s"
        )
    said = f"{sample['tasks_per_s']:.0f}/s, {sample['worker_cpu_us']:.0f} µs"
    if sample.get("late_p99_ms"):
        said += f", p99 {sample['late_p99_ms']:.0f} ms late"
    if sample.get("start_p50_ms"):
        said = f"started after {sample['start_p50_ms']:.1f} ms, {sample['worker_cpu_us']:.0f} µs"
    return said if sample["settled"] else f"{said}, {sample['tasks']} tasks in the time"
