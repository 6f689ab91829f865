"""The project of the integration tests with somebody who hooks ``logging``.

``HOOK`` names who does so when this module is imported; the task ``hook`` does it in a worker that
runs, and ``unhook`` undoes it. What was seen is in the journal: records with all their attributes.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import logging.config
import logging.handlers
import os
import queue
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any, Callable

import wrapt
from celery import signals
from celery.app import trace
from celery.utils.log import ColorFormatter, get_task_logger
from workload import app, journal

HOOK = os.environ.get("HOOK", "")

#: Attributes of records that are never the same twice.
_VOLATILE = ("created", "msecs", "relativeCreated", "thread", "process", "threadName")
_NAMES = ("celery.worker.strategy", "celery.app.trace")

seen: list[Any] = []
_undo = ExitStack()


def view(record: Any) -> dict[str, str]:
    """Return all that a record says, but the time and the thread of it."""
    fields = {name: repr(value) for name, value in vars(record).items() if name not in _VOLATILE}
    return {**fields, "own process": repr(record.process == os.getpid())}


def see(record: Any) -> None:
    if getattr(record, "name", None) in _NAMES:
        seen.append(view(record))


def see_text(text: str) -> None:
    if "Task " in text:
        seen.append(text)


@contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute, as :func:`unittest.mock.patch.object` does."""
    is_own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def other_code(function: Any, look: Callable[[Any], None]) -> Iterator[None]:
    """Change a function in place; it stays the object that it is."""
    before = function.__code__
    copy = FunctionType(
        before, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    names = function.__globals__
    names["_look"], names["_copy"] = look, copy
    made: dict[str, Any] = {}
    source = "def wrapper(*args, **kwargs):\n    _look(args)\n    return _copy(*args, **kwargs)\n"
    exec(compile(source, before.co_filename, "exec"), names, made)
    function.__code__ = made["wrapper"].__code__
    try:
        yield
    finally:
        function.__code__ = before


def _wraps(function: Any, look: Callable[[Any], None]) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        look(args)
        return function(*args, **kwargs)

    return wrapper


def _wrapt(function: Any, look: Callable[[Any], None]) -> Any:
    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        look((instance, *args))
        return wrapped(*args, **kwargs)

    return wrapt.FunctionWrapper(function, wrapper)


class Collector(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        see(record)


class SeeingFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        see(record)
        return True


class SeeingLogger(logging.Logger):
    def handle(self, record: logging.LogRecord) -> None:
        see(record)
        super().handle(record)


class SeeingStreamHandler(logging.StreamHandler):  # type: ignore[type-arg]
    def emit(self, record: logging.LogRecord) -> None:
        see_text(self.format(record))
        super().emit(record)


class SeeingFormatter(ColorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        see(record)
        return str(super().format(record))


class SeeingStream(io.StringIO):
    def write(self, text: str) -> int:
        see_text(text)
        return len(text)


class SeeingRaw(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        see_text(bytes(data).decode())
        return len(data)


class SeeingStyle(logging.PercentStyle):
    def format(self, record: logging.LogRecord) -> str:
        see(record)
        return super().format(record)


class Upper(str):
    def __mod__(self, other: Any) -> str:
        return super().__mod__(other).upper()


def _root_handler() -> Any:
    return logging.getLogger().handlers[0]


@contextmanager
def handler_on(name: str, handler: logging.Handler) -> Iterator[None]:
    logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger(name).removeHandler(handler)


@contextmanager
def handler_instead(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger()
    handler.setFormatter(root.handlers[0].formatter)
    with changed(root, "handlers", [handler]):
        yield


@contextmanager
def filter_on(thing: Any) -> Iterator[None]:
    found = SeeingFilter()
    thing.addFilter(found)
    try:
        yield
    finally:
        thing.removeFilter(found)


@contextmanager
def filters_of_the_loggers() -> Iterator[None]:
    with filter_on(logging.getLogger(_NAMES[0])), filter_on(logging.getLogger(_NAMES[1])):
        yield


@contextmanager
def factory() -> Iterator[None]:
    before = logging.getLogRecordFactory()

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.span = 7
        see(record)
        return record

    logging.setLogRecordFactory(make)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


@contextmanager
def queue_and_listener() -> Iterator[None]:
    records: Any = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(records, Collector())
    listener.start()
    try:
        with handler_on("", logging.handlers.QueueHandler(records)):
            yield
    finally:
        listener.stop()


@contextmanager
def memory() -> Iterator[None]:
    handler = logging.handlers.MemoryHandler(3, target=Collector())
    with handler_on("celery", handler):
        yield
    handler.close()


@contextmanager
def of_class(cls: type, *things: Any) -> Iterator[None]:
    before = type(things[0])
    for thing in things:
        thing.__class__ = cls
    try:
        yield
    finally:
        for thing in things:
            thing.__class__ = before


@contextmanager
def stream_set(stream: Any) -> Iterator[None]:
    before = _root_handler().setStream(stream)
    try:
        yield
    finally:
        _root_handler().setStream(before)


@contextmanager
def level_name() -> Iterator[None]:
    before = logging.getLevelName(logging.INFO)
    logging.addLevelName(logging.INFO, "notice")
    try:
        with formats(lambda text: None):
            yield
    finally:
        logging.addLevelName(logging.INFO, before)


@contextmanager
def switched_off(turn: Callable[[Any], None], back: Callable[[Any], None]) -> Iterator[None]:
    with handler_on("", Collector()):
        loggers = [logging.getLogger(name) for name in _NAMES]
        for logger in loggers:
            turn(logger)
        try:
            yield
        finally:
            for logger in loggers:
                back(logger)


@contextmanager
def formats(see: Callable[[str], None] = see_text) -> Iterator[None]:
    """Read what the stream gets, without anything in its way."""
    handler = _root_handler()
    stream = io.StringIO()
    before = handler.setStream(stream)
    try:
        yield
    finally:
        handler.setStream(before)
        for line in stream.getvalue().splitlines():
            see_text(line)


@contextmanager
def both(*managers: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for manager in managers:
            stack.enter_context(manager)
        yield


@contextmanager
def changed_by_dict_config() -> Iterator[None]:
    root = logging.getLogger()
    with changed(root, "handlers", [*root.handlers]):
        logging.config.dictConfig(
            {
                "version": 1,
                "incremental": False,
                "disable_existing_loggers": False,
                "handlers": {"seeing": {"()": Collector}},
                "root": {"handlers": ["seeing"], "level": "INFO"},
            }
        )
        try:
            yield
        finally:
            # It has cleared the list of all handlers, and that of the logger.
            pass


@contextmanager
def coloured() -> Iterator[None]:
    formatter = _root_handler().formatter
    ColorFormatter.colors["INFO"] = ColorFormatter.colors["WARNING"]
    try:
        with changed(formatter, "use_color", True), formats():
            yield
    finally:
        del ColorFormatter.colors["INFO"]


@contextmanager
def own_handler_of_a_logger() -> Iterator[None]:
    handler = SeeingStreamHandler(io.StringIO())
    logger = logging.getLogger("celery.app.trace")
    with handler_on("celery.app.trace", handler), changed(logger, "propagate", False):
        yield


@contextmanager
def disabled() -> Iterator[None]:
    with handler_on("", Collector()):
        logging.disable(logging.INFO)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _first(args: Any) -> None:
    for arg in args:
        if isinstance(arg, logging.LogRecord):
            see(arg)


def _message(args: Any) -> None:
    for arg in args:
        if isinstance(arg, str):
            see_text(arg)


#: The usual ways to hook into logging, and some more. Each is undone as it ends.
WAYS: dict[str, Callable[[], Any]] = {
    "a handler on the root": lambda: handler_on("", Collector()),
    "a handler on celery": lambda: handler_on("celery", Collector()),
    "a handler on celery.app.trace": lambda: handler_on("celery.app.trace", Collector()),
    "a queue and a listener": queue_and_listener,
    "a memory handler": memory,
    "another handler": lambda: handler_instead(Collector()),
    "a subclass of the handler": lambda: handler_instead(SeeingStreamHandler(sys.__stderr__)),
    "another class of the handler": lambda: of_class(SeeingStreamHandler, _root_handler()),
    "dictConfig": changed_by_dict_config,
    "a record factory": factory,
    "a filter on the root handler": lambda: filter_on(_root_handler()),
    "filters on the loggers": filters_of_the_loggers,
    "another class of loggers": lambda: of_class(SeeingLogger, *map(logging.getLogger, _NAMES)),
    "a LoggerAdapter": lambda: both(
        changed(trace, "logger", logging.LoggerAdapter(trace.logger, {"tenant": "a"})),
        handler_on("", Collector()),
    ),
    "a formatter": lambda: changed(_root_handler(), "formatter", SeeingFormatter()),
    "another format": lambda: both(
        changed(_root_handler(), "formatter", logging.Formatter("%(funcName)s|%(message)s")),
        formats(),
    ),
    "another style": lambda: changed(
        _root_handler().formatter, "_style", SeeingStyle("%(message)s")
    ),
    "a method of the formatter": lambda: changed(
        _root_handler().formatter,
        "formatMessage",
        _wraps(_root_handler().formatter.formatMessage, _first),
    ),
    "a method of the handler": lambda: changed(
        _root_handler(), "emit", _wraps(_root_handler().emit, _first)
    ),
    "a method of the logger": lambda: changed(
        trace.logger, "handle", _wraps(trace.logger.handle, _first)
    ),
    "dates": lambda: both(changed(_root_handler().formatter, "datefmt", "on %Y"), formats()),
    "no milliseconds": lambda: both(
        changed(logging.Formatter, "default_msec_format", "%s.%03d"), formats()
    ),
    "another clock": lambda: both(
        changed(_root_handler().formatter, "converter", lambda _: time.gmtime(0)), formats()
    ),
    "the name of the level": level_name,
    "a terminator": lambda: both(changed(_root_handler(), "terminator", "|\n"), formats()),
    "colours": coloured,
    "a stream": lambda: stream_set(SeeingStream()),
    "an attribute stream": lambda: changed(_root_handler(), "stream", SeeingStream()),
    "a stream with a device of its own": lambda: stream_set(
        io.TextIOWrapper(io.BufferedWriter(SeeingRaw()))
    ),
    "write of the stream": lambda: changed(
        _root_handler().stream, "write", _wraps(_root_handler().stream.write, _message)
    ),
    "a plain stream": formats,
    "a logger with its own handler": own_handler_of_a_logger,
    "loggers on another level": lambda: switched_off(
        lambda logger: logger.setLevel(logging.WARNING), lambda logger: logger.setLevel(0)
    ),
    "disabled loggers": lambda: switched_off(
        lambda logger: setattr(logger, "disabled", True),
        lambda logger: setattr(logger, "disabled", False),
    ),
    "disabled lines": disabled,
    "celery.app.trace.info": lambda: changed(trace, "info", _wraps(trace.info, _message)),
    "another text": lambda: both(
        changed(trace, "LOG_SUCCESS", "Task %(name)s[%(id)s] is done"), handler_on("", Collector())
    ),
    "a text with ways of its own": lambda: both(
        changed(trace, "LOG_SUCCESS", Upper(trace.LOG_SUCCESS)), handler_on("", Collector())
    ),
    "a text with ways of its own in the log": lambda: both(
        changed(trace, "LOG_SUCCESS", Upper(trace.LOG_SUCCESS)), formats()
    ),
}

#: Methods that tracing libraries put something around.
METHODS = {
    "Logger.callHandlers": (logging.Logger, "callHandlers"),
    "Logger.handle": (logging.Logger, "handle"),
    "Logger.makeRecord": (logging.Logger, "makeRecord"),
    "Logger._log": (logging.Logger, "_log"),
    "Logger.info": (logging.Logger, "info"),
    "Logger.findCaller": (logging.Logger, "findCaller"),
    "Filterer.filter": (logging.Filterer, "filter"),
    "Handler.handle": (logging.Handler, "handle"),
    "Handler.emit": (logging.Handler, "emit"),
    "Handler.format": (logging.Handler, "format"),
    "StreamHandler.emit": (logging.StreamHandler, "emit"),
    "Formatter.format": (logging.Formatter, "format"),
    "ColorFormatter.format": (ColorFormatter, "format"),
    "PercentStyle.format": (logging.PercentStyle, "format"),
    "LogRecord.getMessage": (logging.LogRecord, "getMessage"),
}
_HOW: dict[str, Callable[[type, str], Any]] = {
    "functools": lambda owner, name: changed(
        owner, name, _wraps(vars(owner)[name], lambda args: _look(name, args))
    ),
    "wrapt": lambda owner, name: changed(
        owner, name, _wrapt(vars(owner)[name], lambda args: _look(name, args))
    ),
    "other code": lambda owner, name: other_code(vars(owner)[name], lambda args: _look(name, args)),
}


def _look(name: str, args: Any) -> None:
    records = [arg for arg in args if isinstance(arg, logging.LogRecord)]
    if records:
        for record in records:
            see(record)
    elif name == "findCaller":
        seen.append("called")
    else:
        see_text(" ".join(arg for arg in args if isinstance(arg, str)))


for _name, (_owner, _method) in METHODS.items():
    for _way, _put in _HOW.items():
        if _way == "other code" and vars(_owner)[_method].__closure__:
            continue  # what has a closure takes no code without one
        WAYS[f"{_name} by {_way}"] = functools.partial(_put, _owner, _method)


@app.task(name="hook", ignore_result=True)
def hook(way: str) -> None:
    """Hook into logging; this task's own second line is the first to be seen."""
    seen.clear()
    _undo.enter_context(WAYS[way]())


@app.task(name="unhook", ignore_result=True)
def unhook() -> None:
    _undo.close()
    journal.write("hooked", "seen", seen=json.loads(json.dumps(seen, default=repr)))
    seen.clear()


@app.task(name="say", ignore_result=True)
def say(number: int) -> None:
    """Log in the ways in which tasks do."""
    get_task_logger("project").info("Task logger %d", number)
    print(f"Task printed {number}")
    logging.getLogger("project").warning("Task warned %d", number)


@signals.task_postrun.connect(weak=False)
def _on_end(task_id: str, **_: Any) -> None:
    """The lines of a task are logged by now."""
    journal.write(task_id, "ended")


# -- who is there before the worker


def _set_up_alone(**_: Any) -> None:
    handler = SeeingStreamHandler(sys.__stderr__)
    handler.setFormatter(logging.Formatter("%(levelname)s %(module)s %(message)s"))
    logging.basicConfig(level="INFO", handlers=[handler])


def _add_handler(logger: logging.Logger, **_: Any) -> None:
    logger.addHandler(Collector())


if HOOK == "setup_logging":
    signals.setup_logging.connect(_set_up_alone, weak=False)
elif HOOK == "after_setup_logger":
    signals.after_setup_logger.connect(_add_handler, weak=False)
elif HOOK == "own root handler":
    app.conf.worker_hijack_root_logger = False
    _set_up_alone()
elif HOOK:
    _undo.enter_context(WAYS[HOOK]())


@app.task(name="ways", ignore_result=True)
def ways() -> None:
    journal.write("ways", "known", ways=[*WAYS])
