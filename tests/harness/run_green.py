"""Patches this interpreter for a hub and runs pytest in it.

``python tests/harness/run_green.py gevent tests/unit/green [options of pytest]``
"""

from __future__ import annotations

import sys
from pathlib import Path

import hybrid

if __name__ == "__main__":
    hub, path, *options = sys.argv[1:]
    hybrid.patch(hub)

    import pytest

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    folder = Path(path).resolve()
    if folder.is_file():
        folder = folder.parent
    sys.exit(
        pytest.main(
            [path, f"--hub={hub}", f"--confcutdir={folder}", "-p", "no:cacheprovider", *options]
        )
    )
