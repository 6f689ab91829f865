"""Patches this interpreter for a hub and runs pytest in it.

``python tests/unit/green/run.py gevent [file in this folder, and options of pytest]``
"""

from __future__ import annotations

import sys
from pathlib import Path

import hybrid

GREEN = Path(__file__).resolve().parent

if __name__ == "__main__":
    hub, *arguments = sys.argv[1:]
    hybrid.patch(hub)

    import pytest

    paths = [GREEN / word for word in arguments if word.endswith(".py")] or [GREEN]
    options = [word for word in arguments if not word.endswith(".py")]
    sys.exit(
        pytest.main(
            [
                *map(str, paths),
                f"--hub={hub}",
                f"--confcutdir={GREEN}",
                "-p",
                "no:cacheprovider",
                *options,
            ]
        )
    )
