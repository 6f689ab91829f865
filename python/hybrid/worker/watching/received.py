"""The line that says that a message has been received, logged from where Celery does that.

A record tells which function has logged it, and on which line of which file; handlers that ask the
stack find the names of that module. So ours is told to be Celery's handler of messages.
"""

from __future__ import annotations

import dis
import inspect
from types import CodeType, FunctionType
from typing import Any, Callable

from celery.worker import strategy

#: What logs one line, as :meth:`logging.Logger.info` does, for messages with a mapping.
Log = Callable[[str, "dict[str, Any]"], object]


def _make() -> tuple[Log, Any]:
    """Return what logs as Celery's handler of messages does, and its logger."""
    info = inspect.signature(strategy.default).parameters["info"].default

    def task_message_handler(fmt: str, context: dict[str, Any]) -> None:
        info(fmt, context, extra={"data": context})

    ours: Log = task_message_handler
    found = _find_line(strategy.default)
    if found is not None:
        celerys, line = found
        code = task_message_handler.__code__.replace(
            co_filename=celerys.co_filename,
            co_name=celerys.co_name,
            co_firstlineno=line - 1,  # the call is on the second line of ours
        )
        closure = task_message_handler.__closure__
        ours = FunctionType(code, vars(strategy), celerys.co_name, None, closure)
    return ours, getattr(info, "__self__", strategy.logger)


def _find_line(function: Any) -> tuple[CodeType, int] | None:
    """Return the code of Celery's handler of messages, and the line that logs them."""
    for code in inspect.unwrap(function).__code__.co_consts:
        if type(code) is CodeType and "LOG_RECEIVED" in code.co_names:
            line, starts = 0, dict(dis.findlinestarts(code))
            for instruction in dis.get_instructions(code):
                line = starts.get(instruction.offset, line)
                if instruction.argval == "LOG_RECEIVED":
                    return code, line
    return None


log, logger = _make()
