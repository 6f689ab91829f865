"""Tables for people, and the same numbers as JSON."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from feed_crawler import store
from feed_crawler.crawl import Crawl, Plan, Round

PACKAGES = ("celery", "kombu", "celery-hybrid", "gevent", "eventlet", "greenlet", "redis")
SHOWN_FAILURES = 5


class ProgressReport:
    """A bar on a terminal; a line every few seconds elsewhere, so that a log shows life."""

    INTERVAL = 3.0

    def __init__(self, console: Console, pool: str) -> None:
        self._console = console
        self._pool = pool
        self._last_line = time.monotonic()
        self._bars: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> ProgressReport:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def show(self, name: str, seen: store.Progress) -> None:
        """Draw how far the round called ``name`` is."""
        total = seen.feeds + seen.articles
        done = total - seen.feeds_pending - seen.articles_wanted
        note = (
            f"{seen.feeds - seen.feeds_pending}/{seen.feeds} feeds, "
            f"{seen.articles - seen.articles_wanted}/{seen.articles} articles"
        )
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(f"{self._pool}: {name}", note="")
        self._progress.update(self._bars[name], completed=done, total=total, note=note)
        if not self._console.is_terminal and time.monotonic() - self._last_line > self.INTERVAL:
            self._last_line = time.monotonic()
            self._console.print(f"{self._pool}: {name}: {note}", soft_wrap=True)


def crawl_table(crawl: Crawl, plan: Plan) -> Group:
    """One column per round."""
    table = Table(title=f"-P {crawl.pool} -c {plan.concurrency}", title_justify="left")
    table.add_column()
    for one in crawl.rounds:
        table.add_column(one.name, justify="right")

    def row(label: str, *values: str) -> None:
        table.add_row(label, *values)

    rounds = crawl.rounds
    row("feeds", *(str(r.feeds) for r in rounds))
    row("seconds", *(f"{r.seconds:.1f}" for r in rounds))
    row("feeds/s", *(f"[bold]{r.feeds_per_s:.3g}[/]" for r in rounds))
    row("feeds/s, first 90 %", *(f"{r.feeds_per_s_90:.3g}" for r in rounds))
    row("tasks/s", *(f"{r.tasks_per_s:.3g}" for r in rounds))
    row("worker CPU, ms per task", *(f"{r.cpu_ms_per_task:.2f}" for r in rounds))
    row("worker CPU, % of one core", *(f"{100 * r.cpu_s / r.seconds:.0f}" for r in rounds))
    if not plan.urls:
        row("TCP connections to sites", *(str(r.connections) for r in rounds))
    table.add_section()
    for state in sorted({state for r in rounds for state in r.states}):
        row(f"feeds {state}", *(str(r.states.get(state, 0)) for r in rounds))
    row("feeds redirected", *(str(r.redirected) for r in rounds))
    row("retries", *(str(r.retries) for r in rounds))
    row("entries stored", *(str(r.entries) for r in rounds))
    row("articles stored", *(str(r.articles) for r in rounds))

    failures = Table(title="Not ok, with the reason", title_justify="left", show_header=False)
    for url, error in crawl.failures[:SHOWN_FAILURES]:
        failures.add_row(url, error)
    if len(crawl.failures) > SHOWN_FAILURES:
        failures.add_row(f"… and {len(crawl.failures) - SHOWN_FAILURES} more", "--json lists all")
    return Group(table, failures) if crawl.failures else Group(table)


def comparison_table(crawls: Sequence[Crawl]) -> Table:
    """Set the first pool against each of the others, round by round."""
    first, *others = crawls
    table = Table(title="Comparison", title_justify="left")
    for header in ("round", "measure", first.pool):
        table.add_column(header, justify="right" if header == first.pool else "left")
    for other in others:
        table.add_column(other.pool, justify="right")
        table.add_column("ratio", justify="right")

    measures: dict[str, Callable[[Round], float]] = {
        "feeds/s": lambda r: r.feeds_per_s,
        "feeds/s, first 90 %": lambda r: r.feeds_per_s_90,
        "tasks/s": lambda r: r.tasks_per_s,
        "worker CPU, ms per task": lambda r: r.cpu_ms_per_task,
    }
    for number, one in enumerate(first.rounds):
        table.add_section()
        for label, measure in measures.items():
            mine = measure(one)
            cells = [one.name, label, f"{mine:.4g}"]
            for other in others:
                theirs = measure(other.rounds[number])
                cells += [f"{theirs:.4g}", f"[bold]{mine / theirs:.2f}[/]"]
            table.add_row(*cells)
    return table


def as_json(crawls: Sequence[Crawl], plan: Plan) -> dict[str, Any]:
    """Everything that was measured, and where."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "versions": dict(installed_versions()),
        "plan": {
            "feeds": len(plan.urls) or plan.feeds,
            "local": not plan.urls,
            "concurrency": plan.concurrency,
            "sites": None if plan.urls else plan.sites,
            "site_rate": plan.settings.site_rate,
            "timeout": plan.settings.timeout,
            "http": plan.settings.http,
            "articles_per_feed": plan.settings.articles,
        },
        "crawls": [
            {**asdict(crawl), "rounds": [round_as_json(one) for one in crawl.rounds]}
            for crawl in crawls
        ],
    }


def round_as_json(one: Round) -> dict[str, Any]:
    rates = ("feeds_per_s", "feeds_per_s_90", "tasks_per_s", "cpu_ms_per_task")
    return {**asdict(one), **{rate: getattr(one, rate) for rate in rates}}


def installed_versions() -> list[tuple[str, str]]:
    found = []
    for package in PACKAGES:
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
