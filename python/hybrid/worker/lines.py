"""The two lines that each task has in a worker's log, on level INFO.

Where nobody but Celery's own handler gets them, they are formatted without a record, and written
together when the greenlet that logs gives way to others: those of messages are there before any of
their tasks starts. Whatever else the handler gets is written after the lines that came before it.
"""

from __future__ import annotations

import atexit
import logging
import re
import time
from logging.handlers import WatchedFileHandler
from typing import Any

from celery.app import trace
from celery.utils.log import ColorFormatter
from celery.worker import strategy

from hybrid import patching
from hybrid.hubs.base import Hub

#: The fields of a record that are the same in all lines of a logger.
_CONSTANT = ("levelname", "levelno", "name", "process", "processName")
_FIELDS = frozenset({"asctime", "message", *_CONSTANT})
_MESSAGE = "%(message)s"


class _Lines:
    """Writes lines for one handler, many at a time."""

    def __init__(self, handler: Any, hub: Hub) -> None:
        self.handler = handler
        self._formatter = handler.formatter
        self._is_plain = _has_celerys_format(handler)
        self._hub = hub
        self._waiting: list[str] = []
        #: The second and the millisecond that the next ones have a text for.
        self._moment = (0, 0)
        self._second_text = ""
        #: What comes before and behind the message in the lines of a logger, by its name.
        self._frames: dict[str, tuple[str, str]] = {}
        if self._is_plain:
            handler.addFilter(self)
            atexit.register(self.flush)

    def is_usable(self) -> bool:
        """Tell whether the handler still is as Celery has made it."""
        handler = self.handler
        return (
            self._is_plain
            and handler.formatter is self._formatter
            and handler.level <= logging.INFO
            and handler.filters == [self]
        )

    def filter(self, _: logging.LogRecord) -> bool:
        """Write what waits, before the handler writes something else."""
        self.flush()
        return True

    def write(self, fields: dict[str, Any], message: str) -> None:
        """Write a line soon.

        Args:
            fields: What is the same in all lines of a logger.
            message: Its text.
        """
        if not self._waiting:
            self._hub.call_soon(self.flush)
        now = time.time()
        second = int(now)
        moment = second, int((now - second) * 1000)
        if moment != self._moment:
            if second != self._moment[0]:
                formatter = self._formatter
                self._second_text = time.strftime(
                    formatter.default_time_format, formatter.converter(now)
                )
            self._moment = moment
            self._frames.clear()
        frame = self._frames.get(fields["name"])
        if frame is None:
            frame = self._frames[fields["name"]] = self._frame(fields)
        self._waiting.append(f"{frame[0]}{message}{frame[1]}")

    def _frame(self, fields: dict[str, Any]) -> tuple[str, str]:
        formatter = self._formatter
        asctime = formatter.default_msec_format % (self._second_text, self._moment[1])
        before, behind = formatter._fmt.split(_MESSAGE)
        fields = {**fields, "asctime": asctime}
        return before % fields, behind % fields + self.handler.terminator

    def flush(self) -> None:
        """Write what waits now."""
        lines, self._waiting = self._waiting, []
        if not lines:
            return
        handler = self.handler
        handler.acquire()
        try:
            if isinstance(handler, WatchedFileHandler):
                handler.reopenIfNeeded()
            try:
                handler.stream.write("".join(lines))
            except UnicodeError:  # one of them cannot be written
                for line in lines:
                    handler.stream.write(line.encode("ascii", "backslashreplace").decode())
            handler.flush()
        except Exception:
            handler.handleError(_record_of(lines))
        finally:
            handler.release()


class InfoLogger:
    """Logs what :meth:`logging.Logger.info` would log, for messages with a mapping.

    Args:
        logger: The logger whose lines they are.
        hub: The hub of the worker.
    """

    def __init__(self, logger: logging.Logger, hub: Hub) -> None:
        self._logger = logger
        self._hub = hub
        self._lines: _Lines | None = None
        record = _record_of([], logger.name)
        self._constant = {name: getattr(record, name) for name in _CONSTANT}

    def __call__(self, message: str, context: dict[str, Any]) -> None:
        """Log ``message % context``, and pass ``context`` on as ``data``."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        handler = self._only_handler()
        if handler is not None:
            lines = self._lines
            if lines is None or lines.handler is not handler:
                lines = self._lines = _lines_of(handler, self._hub)
            if lines.is_usable():
                lines.write(self._constant, message % context)
                return
        self._logger.info(message, context, extra={"data": context})

    def _only_handler(self) -> Any:
        """Return the handler that gets the lines, if there is exactly one."""
        found = None
        if self._logger.filters or self._logger.disabled:
            return None
        place: Any = self._logger
        while place is not None:
            for handler in place.handlers:
                if type(handler) is not logging.NullHandler:
                    if found is not None:
                        return None
                    found = handler
            place = place.parent if place.propagate else None
        return found


_all_lines: list[_Lines] = []


def _lines_of(handler: Any, hub: Hub) -> _Lines:
    for lines in _all_lines:
        if lines.handler is handler:
            return lines
    lines = _Lines(handler, hub)
    _all_lines.append(lines)
    return lines


def _has_celerys_format(handler: Any) -> bool:
    formatter = handler.formatter
    return (
        type(handler) in (logging.StreamHandler, WatchedFileHandler)
        and type(formatter) is ColorFormatter
        and type(formatter._style) is logging.PercentStyle
        and formatter.datefmt is None
        and bool(formatter.default_msec_format)
        and set(re.findall(r"%\((\w+)\)", formatter._fmt)) <= _FIELDS
        and formatter._fmt.count("%(message)") == formatter._fmt.count(_MESSAGE) == 1
        and f"%{_MESSAGE}" not in formatter._fmt  # an escape, and no message
    )


def _record_of(lines: list[str], name: str = __name__) -> logging.LogRecord:
    text = "".join(lines)
    return logging.LogRecord(name, logging.INFO, __file__, 0, "%s", (text,), None)


def gather(hub: Hub) -> InfoLogger:
    """Have the lines of tasks written in groups.

    Returns:
        What logs that a message has been received.
    """
    patching.replace_attribute(trace, "info", InfoLogger(trace.logger, hub))
    return InfoLogger(strategy.logger, hub)
