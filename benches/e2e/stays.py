"""The project of a worker whose calls of functions are counted. Profiling begins with its import.

A greenlet inherits the profiler of the one that has started it, so those of the pool are profiled
too. ``SIGUSR2`` has the counts so far written to the file that ``STAYS_VARIABLE`` names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import hybrid

from .app import app as app
from .scenarios import STAYS_VARIABLE

_OURS = str(Path(hybrid.__file__).parent)
_calls: Counter[CodeType] = Counter()


def _count(frame: FrameType, event: str, _: Any) -> None:
    if event == "call":
        _calls[frame.f_code] += 1


def _write(*_: object) -> None:
    calls = _calls.copy()  # what follows is counted as well
    ours = {
        f"{code.co_filename.removeprefix(_OURS + '/')}:{code.co_firstlineno} {code.co_name}": count
        for code, count in calls.items()
        if code.co_filename.startswith(_OURS)
    }
    path = Path(os.environ[STAYS_VARIABLE])
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps({"all": sum(calls.values()), "ours": ours}))
    unfinished.rename(path)


signal.signal(signal.SIGUSR2, _write)
sys.setprofile(_count)
