"""The two lines that each task has in a worker's log, on level INFO.

Where nobody but Celery's own handler gets them, they are formatted without a record, and written
together when the greenlet that logs gives way to others: those of messages are there before any of
their tasks starts. Whatever else the handler gets is written after the lines that came before it.

Where a line might look otherwise, or somebody else look at it, ``logging`` writes it: with a format
that has more in it, another factory of records, another class of loggers, handlers or formatters,
or a method of these that somebody has replaced. What fails there costs no task.

Who may switch: a greenlet that writes lines, while it waits for the handler's lock, which a native
thread may have. Lines are taken when it has the lock, so that none is lost with one that is ended
there. The hub, which cannot wait, leaves them to such a greenlet.
"""

from __future__ import annotations

import atexit
import logging
import sys
import time
from logging.handlers import WatchedFileHandler
from types import FunctionType
from typing import Any

from celery.app import trace
from celery.utils.log import ColorFormatter
from celery.worker import strategy

from hybrid import runtime
from hybrid.hubs.base import Hub
from hybrid.patches import celery as patches
from hybrid.worker.watching.complaints import complain_of_the_log

#: The fields of a record that are the same in all lines of a logger.
_CONSTANT = ("levelname", "levelno", "name", "process", "processName")
_FIELDS = frozenset({"asctime", "message", *_CONSTANT})
_MESSAGE = "%(message)s"
#: Lines that wait for the handler's lock; whoever logs another one waits for it as well.
LINES_HELD = 10_000
#: The methods that a line goes through.
_LOGGER_METHODS = ("info", "_log", "makeRecord", "handle", "filter", "callHandlers")
_HANDLER_METHODS = ("handle", "filter", "emit", "format", "flush")
_FORMATTER_METHODS = ("format", "formatMessage", "formatTime", "usesTime")


class _Lines:
    """Writes lines for one handler, many at a time."""

    def __init__(self, handler: Any, hub: Hub) -> None:
        self.handler = handler
        self._formatter = handler.formatter
        self._is_plain = _has_celerys_format(handler)
        self._hub = hub
        self._waiting: list[str] = []
        self._is_flushing = False
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
        if not self._is_flushing:
            self._is_flushing = True
            self._hub.spawn(self._flush_soon)
        elif len(self._waiting) >= LINES_HELD:
            self.flush()
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

    def _flush_soon(self) -> None:
        try:
            self.flush()
        finally:
            self._is_flushing = False

    def flush(self) -> None:
        """Write what waits now; in the hub, if the handler's lock is free."""
        if not self._waiting:
            return
        handler = self.handler
        in_hub = self._hub.in_thread() and not self._hub.can_park()
        if handler.lock is not None and not handler.lock.acquire(blocking=not in_hub):
            return  # a greenlet writes them, or is about to
        lines, self._waiting = self._waiting, []
        try:
            if not lines:
                return
            if isinstance(handler, WatchedFileHandler):
                handler.reopenIfNeeded()
            try:
                handler.stream.write("".join(lines))
            except UnicodeError:  # one of them cannot be written
                for line in lines:
                    handler.stream.write(line.encode("ascii", "backslashreplace").decode())
            handler.flush()
        except Exception:
            self._report(lines)
        finally:
            handler.release()

    def _report(self, lines: list[str]) -> None:
        try:
            self.handler.handleError(_record_of(lines))
        except Exception:
            complain_of_the_log()


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
        self._is_original = False
        record = _record_of([], logger.name)
        self._constant = {name: getattr(record, name) for name in _CONSTANT}

    def __call__(self, message: str, context: dict[str, Any]) -> None:
        """Log ``message % context``, and pass ``context`` on as ``data``. Never raises."""
        try:
            if not self._logger.isEnabledFor(logging.INFO):
                return
            handler = self._only_handler()
            if handler is not None:
                lines = self._lines
                if lines is None or lines.handler is not handler:
                    lines = self._lines = _lines_of(handler, self._hub)
                    self._is_original = _are_original(self._logger, _LOGGER_METHODS)
                if self._is_original and lines.is_usable():
                    try:
                        text = message % context
                    except Exception:  # logging says what is wrong with it
                        pass
                    else:
                        lines.write(self._constant, text)
                        return
            self._logger.info(message, context, extra={"data": context})
        except Exception:
            complain_of_the_log()

    def _only_handler(self) -> Any:
        """Return the handler that gets the lines, if there is exactly one."""
        found = None
        if self._logger.filters or self._logger.disabled:
            return None
        if logging.getLogRecordFactory() is not logging.LogRecord:
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


def _lines_of(handler: Any, hub: Hub) -> _Lines:
    all_lines: list[_Lines] = runtime.current().lines
    for lines in all_lines:
        if lines.handler is handler:
            return lines
    lines = _Lines(handler, hub)
    all_lines.append(lines)
    return lines


def _has_celerys_format(handler: Any) -> bool:
    formatter = handler.formatter
    return (
        type(handler) in (logging.StreamHandler, WatchedFileHandler)
        and _are_original(handler, _HANDLER_METHODS)
        and type(formatter) is ColorFormatter
        and _are_original(formatter, _FORMATTER_METHODS)
        and type(formatter._style) is logging.PercentStyle
        and formatter._style._fmt == formatter._fmt
        and formatter.datefmt is None
        and bool(formatter.default_msec_format)
        and logging.getLevelName(logging.INFO) not in formatter.colors
        and _is_framed(formatter._fmt)
    )


class _Asked(dict[str, Any]):
    """The fields of a record, with the names of those that a format has asked for."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.names: list[str] = []

    def __getitem__(self, name: str) -> Any:
        self.names.append(name)
        return super().__getitem__(name)


def _is_framed(line: str) -> bool:
    """Tell whether a format is the message with constant fields before and behind it.

    The format is tried, as only Python itself takes one apart as Python does.
    """
    record = _record_of([])
    fields = {name: getattr(record, name) for name in _CONSTANT}
    asked = _Asked({**fields, "asctime": "then", "message": "said"})
    before, _, behind = line.partition(_MESSAGE)
    try:
        text = line % asked
        is_sum = text == f"{before % asked}said{behind % asked}"
    except Exception:
        return False
    # Asked for once in the whole, and not again in the parts.
    return is_sum and set(asked.names) <= _FIELDS and asked.names.count("message") == 1


def _are_original(thing: Any, methods: tuple[str, ...]) -> bool:
    """Tell whether these are the methods that logging and Celery have written."""
    return all(_is_original(thing, name) for name in methods)


def _is_original(thing: Any, name: str) -> bool:
    if name in vars(thing):
        return False
    owner = next(cls for cls in type(thing).__mro__ if name in vars(cls))
    method = vars(owner)[name]
    return (
        owner.__module__ in ("logging", "logging.handlers", "celery.utils.log")
        and type(method) is FunctionType  # a tracer's wrapper may look like it in all else
        and method.__globals__ is vars(sys.modules[owner.__module__])
    )


def _record_of(lines: list[str], name: str = __name__) -> logging.LogRecord:
    text = "".join(lines)
    return logging.LogRecord(name, logging.INFO, __file__, 0, "%s", (text,), None)


def gather(hub: Hub) -> InfoLogger:
    """Have the lines of tasks written in groups.

    Returns:
        What logs that a message has been received.
    """
    patches.TRACE_INFO.replace(trace, InfoLogger(trace.logger, hub))
    return InfoLogger(strategy.logger, hub)
