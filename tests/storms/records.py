"""One JSON file per storm that was run, so that a run that was broken off goes on where it was."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from load import Sizes
from verdict import Findings

_ROOT = Path(__file__).resolve().parents[2]


def commit() -> str:
    """Return the commit under test, with ``-dirty`` behind it where files have been changed."""
    done = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown-dirty"


class Record:
    """The file for one storm in ``folder``; without a folder nothing is kept.

    Args:
        folder: Where the files are.
        what: What tells this storm from the others: kind, pool, broker, seed.
        sizes: What else has to be the same for a record to stand for this run.
    """

    def __init__(self, folder: Path | None, what: list[str], sizes: Sizes) -> None:
        self._path = folder / f"{'-'.join(what)}.json" if folder is not None else None
        self._head = {"storm": what, "commit": commit(), **asdict(sizes)}

    def skip_if_passed(self) -> None:
        """Skip the test when its record says that this commit has passed it."""
        if self._path is None or not self._path.exists() or "dirty" in self._head["commit"]:
            return
        kept = json.loads(self._path.read_text())
        if kept["findings"] == {} and all(kept.get(k) == v for k, v in self._head.items()):
            pytest.skip(f"passed before, see {self._path}")

    def write(self, findings: Findings, figures: dict[str, Any]) -> None:
        """Keep what came of the storm."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            kept = {**self._head, "findings": findings.counts, **figures}
            self._path.write_text(json.dumps(kept, indent=1) + "\n")
