"""Runs the samples of a bench in fresh interpreters, prints the table and keeps the numbers.

A bench is a script with *parts*: functions ``part(hub, implementation, quick)`` that return figures
by name, smaller being better. Each sample of a part has an interpreter of its own, in which the
script is started again: it patches, runs the part and prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any, Callable

HUBS = ("gevent", "eventlet")
IMPLEMENTATIONS = ("stock", "hybrid")
RESULTS = Path(__file__).parent / "results"

Part = Callable[[str, str, bool], "dict[str, float]"]


@dataclass(frozen=True)
class Target:
    """How many times smaller our figure has to be than stock's."""

    figure: str
    hub: str
    at_least: float


def run_samples(script: Path, parts: list[Part], title: str, targets: list[Target]) -> int:
    """Be the command line of a bench. Returns the exit status: 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter samples")
    parser.add_argument("--hub", choices=HUBS, action="append", help="only this one")
    parser.add_argument("--samples", type=int, help="per hub and implementation")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        hub, implementation, name = options.child
        _patch(hub)
        (part,) = (part for part in parts if part.__name__ == name)
        print(json.dumps(part(hub, implementation, options.quick)), flush=True)
        # Not by the usual way: taking a million greenlets apart takes longer than the bench.
        os._exit(0)
    count = options.samples or (3 if options.quick else 5)
    names = [part.__name__ for part in parts]
    figures = _collect(script, names, options.hub or HUBS, count, options.quick)
    print(f"{title}: median of {count} samples (lowest - highest)\n")
    missed = _print_table(figures, targets)
    path = _keep(script.stem, title, figures, options.quick)
    print(f"\n{_describe_machine()}\nevery sample is in {path}")
    if missed:
        print("missed: " + ", ".join(f"{target.figure} on {target.hub}" for target in missed))
    return 1 if missed else 0


def _patch(hub: str) -> None:
    warnings.simplefilter("ignore")
    import hybrid

    hybrid.patch(hub)


def _collect(script: Path, parts: list[str], hubs: Any, count: int, quick: bool) -> Any:
    """Return a value of each sample, by hub, implementation and figure."""
    figures: Any = {hub: {name: {} for name in IMPLEMENTATIONS} for hub in hubs}
    for number, hub, part in product(range(count), hubs, parts):
        # Who goes first alternates: the second may find the processor warmer or slower.
        for implementation in IMPLEMENTATIONS if number % 2 else reversed(IMPLEMENTATIONS):
            _progress(f"sample {number + 1} of {count}: {hub}, {part}, {implementation}")
            command = [sys.executable, script, "--child", hub, implementation, part]
            child = subprocess.run(
                command + ["--quick"] * quick, stdout=subprocess.PIPE, text=True, check=True
            )
            for name, value in json.loads(child.stdout.splitlines()[-1]).items():
                figures[hub][implementation].setdefault(name, []).append(value)
    _progress("")
    return figures


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<60}", end="\r", file=sys.stderr, flush=True)


def _print_table(figures: Any, targets: list[Target]) -> list[Target]:
    row = "{:<10} {:<18} {:>30} {:>30} {:>8}   {}"
    print(row.format("hub", "", "stock", "hybrid", "ratio", "target"))
    missed = []
    for hub, name, stock, ours in _rows(figures):
        ratio = statistics.median(stock) / statistics.median(ours)
        target = next((t for t in targets if (t.figure, t.hub) == (name, hub)), None)
        verdict = ""
        if target:
            is_met = ratio >= target.at_least
            verdict = f"{target.at_least:g}x, {'met' if is_met else 'MISSED'}"
            missed += [] if is_met else [target]
        print(row.format(hub, name, _spread(stock), _spread(ours), f"{ratio:.1f}x", verdict))
    return missed


def _rows(figures: Any) -> Iterator[tuple[str, str, list[float], list[float]]]:
    for hub, sides in figures.items():
        for name, ours in sides["hybrid"].items():
            yield hub, name, sides["stock"][name], ours


def _spread(values: list[float]) -> str:
    return f"{_short(statistics.median(values))} ({_short(min(values))} - {_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _keep(name: str, title: str, figures: Any, quick: bool) -> Path:
    now = datetime.now(timezone.utc)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{'-quick' if quick else ''}.json"
    packages = ("celery-hybrid", "celery", "kombu", "gevent", "eventlet", "greenlet")
    kept = {
        "title": title,
        "date": now.isoformat(timespec="seconds"),
        "machine": _describe_machine(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "samples": figures,
    }
    path.write_text(json.dumps(kept, indent=1) + "\n")
    return path


def version(package: str) -> str | None:
    """Return what is installed of ``package``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Return what the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _describe_machine() -> str:
    return f"{cpu_model()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
