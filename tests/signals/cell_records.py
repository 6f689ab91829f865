"""One JSON file per cell that was run, so that a run that was broken off goes on where it was."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

from matrix import Cell
from right import Observed

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


class Records:
    """The files in ``folder``; without a folder nothing is kept.

    Args:
        folder: Where the files are.
        pools: What the workers run on, as in ``hybrid.``.
    """

    def __init__(self, folder: Path | None, pools: str) -> None:
        self._folder = folder
        self._head = {"commit": commit(), "pools": pools}

    def has_passed(self, cell: Cell) -> bool:
        """Tell whether this commit has passed this cell before."""
        path = self._path(cell)
        if path is None or not path.exists() or "dirty" in self._head["commit"]:
            return False
        kept = json.loads(path.read_text())
        return not kept["findings"] and all(kept.get(k) == v for k, v in self._head.items())

    def write(self, cell: Cell, findings: list[str], seen: Observed | None) -> None:
        """Keep what came of a cell."""
        path = self._path(cell)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {**self._head, **asdict(cell), "findings": findings}
        if seen is not None:
            kept["seen"] = asdict(seen)
        path.write_text(json.dumps(kept, indent=1) + "\n")

    def _path(self, cell: Cell) -> Path | None:
        return None if self._folder is None else self._folder / f"{cell.slug}.json"
