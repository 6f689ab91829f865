"""The passage of an INFO line through :mod:`logging`, from its logger to the stream it ends in.

Whoever wants to see lines, or to have them otherwise, puts something there: a handler, a filter,
a factory of records, a formatter, another stream, a class or a method, at any time. A
:class:`Passage` is what was found at one look, and tells cheaply whether that still is so.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from itertools import chain
from logging.handlers import WatchedFileHandler
from typing import Any, Callable

from celery.utils.log import ColorFormatter

from hybrid._rust import Unchanged
from hybrid.hubs.base import Hub
from hybrid.patches.originals import Original

MESSAGE = "%(message)s"
#: The fields of a record that are the same in all lines of a logger.
CONSTANT = ("levelname", "levelno", "name", "process", "processName")
_FIELDS = frozenset({"asctime", "message", *CONSTANT})


def _originals(owner: type, *names: str) -> tuple[Original, ...]:
    return tuple(Original(owner, name) for name in names)


_FILTER = _originals(logging.Filterer, "filter")
_LOGGER = (
    *_originals(logging.Logger, "_log", "callHandlers", "findCaller", "handle", "info"),
    *_originals(logging.Logger, "isEnabledFor", "makeRecord"),
    *_FILTER,
)
_HANDLER = (
    *_originals(logging.Handler, "acquire", "format", "handle", "release"),
    *_originals(logging.StreamHandler, "flush"),
    *_FILTER,
)
_HANDLERS: dict[type, tuple[Original, ...]] = {
    logging.StreamHandler: (*_HANDLER, *_originals(logging.StreamHandler, "emit")),
    WatchedFileHandler: (
        *_HANDLER,
        *_originals(WatchedFileHandler, "emit", "reopenIfNeeded"),
    ),
}
#: What a method calls by the name of its class, or of its base.
_BELOW_FILE = (
    *_originals(logging.FileHandler, "emit"),
    *_originals(logging.StreamHandler, "emit"),
)
_BELOW_FORMATTER = _originals(logging.Formatter, "format")
_NULL = _originals(logging.NullHandler, "emit", "handle")
_FORMATTER = (
    *_originals(ColorFormatter, "format"),
    *_originals(logging.Formatter, "formatMessage", "formatTime", "usesTime"),
)
_STYLE = _originals(logging.PercentStyle, "_format", "format", "usesTime")
_RECORD = _originals(logging.LogRecord, "__init__", "getMessage")
#: Streams that take many lines in one text as they take them one by one, and what they write to.
_STREAMS = (io.TextIOWrapper, io.StringIO)
_BUFFERS = (io.BufferedWriter, io.BufferedRandom, io.FileIO, io.BytesIO)


_Methods = dict[type, "tuple[Original, ...]"]


def loggers_of(logger: Any) -> Iterator[Any]:
    """Yield the loggers whose handlers get the records of ``logger``, itself first."""
    place = logger
    while place is not None:
        yield place
        place = place.parent if place.propagate else None


class Passage:
    """What was found between a logger and the stream that its lines end in.

    Args:
        logger: The logger.
        home: The module that has the logger as its attribute ``logger``, if it is looked up there.
        own: The class of the filters that are our own.
    """

    def __init__(self, logger: Any, home: Any, own: type) -> None:
        self.logger = logger
        self._home = home
        #: The one handler that writes the lines; ``None`` where there is not exactly one.
        self.handler: Any = None
        #: Classes that were looked at, with the methods that matter.
        self._above: _Methods = {logging.LogRecord: _RECORD}
        self._below: _Methods = {}
        #: Why lines have to go through :mod:`logging`; empty where that would change nothing.
        self.causes: list[str] = [*self._look(own)]

    # -- what there is

    def _look(self, own: type) -> Iterator[str]:
        logger = self.logger
        if self._home is not None and self._home.logger is not logger:
            yield f"{self._home.__name__}.logger has been replaced by {_name(self._home.logger)}"
            return
        if not isinstance(logger, logging.Logger):
            yield f"its logger is {_name(logger)}"
            return
        yield from _look_at(logger, _LOGGER, f"the logger {logger.name}", self._above)
        if logger.filters:
            yield f"the logger {logger.name} has filters"
        yield from _look_at(logging.LogRecord, _RECORD, "", self._above)
        factory = logging.getLogRecordFactory()
        if factory is not logging.LogRecord:
            yield f"records are made by {_name(factory)}"
        handlers = [handler for place in loggers_of(logger) for handler in place.handlers]
        others = [handler for handler in handlers if not self._is_null(handler)]
        if len(others) != 1:
            names = ", ".join(_name(handler) for handler in others) or "none"
            yield f"the logger {logger.name} has other handlers than one: {names}"
            return
        self.handler = others[0]
        yield from self._look_at_handler(self.handler, own)

    def _is_null(self, handler: Any) -> bool:
        return type(handler) is logging.NullHandler and not any(
            _look_at(handler, _NULL, "a handler", self._above)
        )

    def _look_at_handler(self, handler: Any, own: type) -> Iterator[str]:
        what = f"the handler {_name(handler)}"
        methods = _HANDLERS.get(type(handler))
        if methods is None:
            yield f"lines go to {_name(handler)}"
            return
        yield from _look_at(handler, methods, what, self._below)
        if isinstance(handler, logging.FileHandler):
            yield from _look_below(_BELOW_FILE, self._below)
        if any(type(found) is not own for found in handler.filters):
            yield f"{what} has filters"
        if handler.level > logging.INFO:
            yield f"{what} takes no lines of this level"
        yield from self._look_at_formatter(handler.formatter)
        yield from _look_at_stream(handler.stream)

    def _look_at_formatter(self, formatter: Any) -> Iterator[str]:
        what = f"the formatter {_name(formatter)}"
        if type(formatter) is not ColorFormatter:
            yield f"lines are formatted by {_name(formatter)}"
            return
        yield from _look_at(formatter, _FORMATTER, what, self._below)
        yield from _look_below(_BELOW_FORMATTER, self._below)
        style = formatter._style
        if type(style) is not logging.PercentStyle:
            yield f"{what} has a style of its own, {_name(style)}"
            return
        yield from _look_at(style, _STYLE, f"the style of {what}", self._below)
        if formatter.datefmt is not None or not formatter.default_msec_format:
            yield "dates have a format of their own"
        if logging.getLevelName(logging.INFO) in formatter.colors:
            yield "lines of this level are coloured"
        if style._fmt != formatter._fmt or not _is_framed(formatter._fmt):
            yield "the format of lines has more in it than the same text around each message"

    # -- whether it still is so
    #
    # What is asked for each line is what costs least: a call of Python's is as much as comparing
    # everything in Rust.

    def watch(self, lines: Any, hub: Hub) -> Callable[[], bool]:
        """Return what tells whether nothing has changed, and this is the hub's thread.

        Args:
            lines: What writes the lines; its method ``holds`` comes from :meth:`watch_handler`.
            hub: The hub of the worker.
        """
        logger, home = self.logger, self._home
        loggers = [*loggers_of(logger)]
        nulls = [one for place in loggers for one in place.handlers if one is not self.handler]
        lists = [logger.filters, *(place.handlers for place in loggers)]
        holds = _unchanged(self._above, [*loggers, *nulls], [], lists)
        get_factory, get_level = logging.getLogRecordFactory, logging.getLevelName
        level = get_level(logging.INFO)

        def is_unchanged() -> bool:
            return (
                holds()
                and lines.holds()
                and hub.in_thread()  # nor in a forked child
                and get_factory() is logging.LogRecord
                and get_level(logging.INFO) is level
                and (home is None or home.logger is logger)
            )

        return is_unchanged

    def watch_handler(self) -> Callable[[], bool]:
        """Return what tells whether nothing has changed from the handler on."""
        handler, formatter = self.handler, self.handler.formatter
        objects = [handler, handler.stream, formatter, formatter._style]
        return _unchanged(self._below, objects, [formatter.colors], [handler.filters])


def _unchanged(
    watched: _Methods, objects: list[Any], dicts: list[Any], lists: list[Any]
) -> Callable[[], bool]:
    functions = {method.function for method in chain(*watched.values())}
    return Unchanged([*watched], [*functions], objects, dicts, lists).holds


def _look_at(
    thing: Any, methods: tuple[Original, ...], what: str, watched: _Methods
) -> Iterator[str]:
    """Say which of these methods of ``thing`` are not those of their package."""
    cls = thing if isinstance(thing, type) else type(thing)
    watched[cls] = methods
    for method in methods:
        if cls is not thing and method.name in vars(thing):
            yield f"{what} has a method {method.name}() of its own"
        elif not method.is_in(cls):
            yield method.explain(cls)


def _look_below(methods: tuple[Original, ...], watched: _Methods) -> Iterator[str]:
    for method in methods:
        yield from _look_at(method.owner, (method,), "", watched)


def _look_at_stream(stream: Any) -> Iterator[str]:
    if type(stream) not in _STREAMS or {"flush", "write"} & vars(stream).keys():
        yield f"lines go to a stream of its own kind, {_name(stream)}"
    elif type(stream) is io.TextIOWrapper:
        buffer = stream.buffer
        raw = getattr(buffer, "raw", buffer)
        if type(buffer) not in _BUFFERS or type(raw) not in _BUFFERS:
            yield f"lines go to a stream of its own kind, above {_name(raw)}"


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
    asked = _Asked({**constants(__name__), "asctime": "then", "message": "said"})
    before, _, behind = line.partition(MESSAGE)
    try:
        text = line % asked
        is_sum = text == f"{before % asked}said{behind % asked}"
    except Exception:
        return False
    # Asked for once in the whole, and not again in the parts.
    return is_sum and set(asked.names) <= _FIELDS and asked.names.count("message") == 1


def constants(name: str) -> dict[str, Any]:
    """Return the fields that are the same in all lines of the logger ``name``."""
    record = logging.LogRecord(name, logging.INFO, __file__, 0, "", (), None)
    return {field: getattr(record, field) for field in CONSTANT}


def _name(thing: Any) -> str:
    """Name a function or class, or the class of anything else."""
    if not hasattr(thing, "__qualname__"):
        thing = type(thing)
    return f"{thing.__module__}.{thing.__qualname__}"
