"""What a run leaves behind: its figures, and where and with what they were measured."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benches.report import cpu_model, version

RESULTS = Path(__file__).resolve().parents[1] / "results"
PACKAGES = (
    *("celery-hybrid", "celery", "kombu", "redis", "amqp", "gevent", "eventlet", "greenlet"),
    *("billiard", "vine"),
)


@dataclass(frozen=True)
class Row:
    """One pool under one scenario over one link, with the samples of all repeats."""

    scenario: str
    link: str
    pool: str
    concurrency: int
    samples: list[dict[str, Any]]

    def values(self, figure: str) -> list[float]:
        """Return the figure of every sample that has it; JSON's null is infinite."""
        values = (sample[figure] for sample in self.samples if figure in sample)
        return [math.inf if value is None else value for value in values]

    def median(self, figure: str) -> float | None:
        values = self.values(figure)
        return statistics.median(values) if values else None


def describe(servers: dict[str, str]) -> dict[str, Any]:
    """Return the heading of a result: date, commit, machine and versions."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "system": f"{platform.system()} {platform.release()}",
            "load": os.getloadavg(),
        },
        "versions": {
            "python": platform.python_version(),
            **servers,
            **{name: version(name) for name in PACKAGES},
        },
    }


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def rows(result: dict[str, Any]) -> Iterator[Row]:
    for row in result["rows"]:
        yield Row(**{name: row[name] for name in Row.__dataclass_fields__})


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
