"""What all long tests need: their length, how they show progress, what no worker may log."""

from __future__ import annotations

import re
import time

FULL = 15.0
"""Minutes of a full run."""

RAN_VARIABLE = "HYBRID_SOAK_RAN"
"""Environment variable with the path of the file in which the tasks named "count" are listed."""

#: What Celery logs when a connection breaks, in any of its parts, or something else goes wrong.
_TROUBLE = re.compile(
    r"(?i)reconnect|connection (to broker )?(lost|closed|reset|error)|heartbeats missed|"
    r"missed heartbeat|Traceback|\bERROR\b|\bCRITICAL\b|broken pipe|will retry"
)


def say(text: str) -> None:
    """Show progress; ``make soak`` lets pytest pass it on at once."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def trouble(line: str) -> bool:
    """Tell whether a line of a worker's log says that something went wrong."""
    return bool(_TROUBLE.search(line))
