"""What is said of those who were to be told about a task, and failed.

A log line, an event and a signal tell of a task; none of them may cost it. Whatever they raise is
reported here, in the log, or where the log itself fails, as :mod:`logging` does that.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any


def complain(logger: logging.Logger, text: str, *args: Any) -> None:
    """Log the exception that is being handled, and never raise another."""
    try:
        logger.exception(text, *args)
    except Exception:
        complain_of_the_log()


def complain_of_the_log() -> None:
    """Print the exception that is being handled, unless ``logging.raiseExceptions`` is off."""
    stream = sys.__stderr__  # Celery makes log lines of what is written to the other one
    if not (logging.raiseExceptions and stream):
        return
    try:
        stream.write("--- Logging error ---\n")
        traceback.print_exc(file=stream)
    except Exception:  # as logging: there is nobody left to tell
        pass
