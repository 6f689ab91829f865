"""A kept run as SVG: ``python -m benches.e2e.plots benches/results/e2e-redis.json``.

Writes ``…-throughput.svg``, ``…-cpu.svg`` and ``…-latency.svg`` beside the JSON, from nothing else.
Scales are logarithmic; bars are medians, and lines go from the lowest to the highest repeat.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from . import kept
from .scenarios import POOLS, SCENARIOS
from .tables import short

COLORS = dict(zip(POOLS, ("#9aa5b1", "#c3a995", "#7fb2e5", "#8fd0b0", "#1f5fa8", "#1d7f52")))
LEFT, WIDTH, RIGHT, BAR, GAP, TOP = 210, 560, 110, 11, 12, 64


@dataclass(frozen=True)
class Bar:
    """One line of a plot: ``value``, and the ends of the thin line over it."""

    pool: str
    value: float
    low: float
    high: float
    text: str


Group = tuple[str, list[Bar]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("result", type=Path, nargs="+")
    for path in parser.parse_args(arguments).result:
        result = kept.read(path)
        plots = {
            "throughput": ("tasks per second", list(_bars(result, "tasks_per_s"))),
            "cpu": (
                "µs of the worker's CPU per task",
                list(_bars(result, "worker_cpu_us", ("drain", "eta", "crawl"))),
            ),
            "latency": (
                "milliseconds from sending to start and to result: p50, line to p99",
                [*_latencies(result, "start"), *_latencies(result, "result")],
            ),
        }
        for name, (title, groups) in plots.items():
            if groups:
                output = path.with_name(f"{path.stem}-{name}.svg")
                output.write_text(draw(f"{result['title']}: {title}", groups, _footnote(result)))
                print(output)
    return 0


def _bars(
    result: dict[str, Any], figure: str, kinds: tuple[str, ...] = ("drain", "crawl")
) -> Iterator[Group]:
    for label, rows in _grouped(result, kinds):
        bars = []
        for row in rows:
            value, values = row.median(figure), row.values(figure)
            if value and math.isfinite(value):
                bars.append(Bar(row.pool, value, min(values), max(values), short(value)))
        if bars:
            yield label, bars


def _latencies(result: dict[str, Any], name: str) -> Iterator[Group]:
    for label, rows in _grouped(result, ("paced",)):
        bars = []
        for row in rows:
            value, high = row.median(f"{name}_p50_ms"), row.median(f"{name}_p99_ms")
            if value and high and math.isfinite(value):
                text = f"{short(value)}, p99 {short(high)}"
                bars.append(
                    Bar(row.pool, value, value, high if math.isfinite(high) else value, text)
                )
        if bars:
            yield f"{label}, to {name}", bars


def _grouped(result: dict[str, Any], kinds: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for (name, link), rows in groupby(kept.rows(result), lambda row: (row.scenario, row.link)):
        if SCENARIOS[name].kind in kinds:
            yield name if link == "direct" else f"{name}, +{link} ms", rows


def _footnote(result: dict[str, Any]) -> str:
    versions, machine = result["versions"], result["machine"]
    return (
        f"{result['date'][:10]}, celery {versions['celery']}, python {versions['python']}, "
        f"{machine['cpu']}, {machine['cores']} cores, median of {result['repeats']}"
    )


def draw(title: str, groups: list[Group], footnote: str) -> str:
    """Return horizontal bars on a logarithmic scale as SVG text."""
    everything = [end for _, bars in groups for bar in bars for end in (bar.low, bar.high)]
    low = 10 ** math.floor(math.log10(max(1e-3, min(everything))) - 1e-9)
    high = 10 ** math.ceil(math.log10(max(everything)) + 1e-9)

    def across(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(high / low)
        return LEFT + WIDTH * share

    height = TOP + sum(len(bars) * BAR + GAP for _, bars in groups) + 44
    pools = [pool for pool in POOLS if any(bar.pool == pool for _, bars in groups for bar in bars)]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" '
        f'height="{height}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number, pool in enumerate(pools):
        x = 12 + number * 130
        lines.append(f'<rect x="{x}" y="32" width="10" height="10" fill="{COLORS[pool]}"/>')
        lines.append(f'<text x="{x + 15}" y="41">{pool}</text>')
    tick = low
    while tick <= high * 1.001:
        x = across(tick)
        lines.append(
            f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - 40}" stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{height - 26}" text-anchor="middle">{tick:g}</text>'
        )
        tick *= 10
    y = TOP
    for label, bars in groups:
        middle = y + len(bars) * BAR / 2 + 4
        lines.append(f'<text x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end">{label}</text>')
        for bar in bars:
            width = max(1.0, across(bar.value) - LEFT)
            center = y + (BAR - 2) / 2
            lines.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" '
                f'fill="{COLORS[bar.pool]}"/>'
                f'<line x1="{across(bar.low):.1f}" y1="{center}" x2="{across(bar.high):.1f}" '
                f'y2="{center}" stroke="black"/>'
                f'<text x="{across(bar.high) + 5:.1f}" y="{y + 8}" font-size="9">{bar.text}</text>'
            )
            y += BAR
        y += GAP
    lines += [f'<text x="12" y="{height - 8}" fill="#666">{escape(footnote)}</text>', "</svg>", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
