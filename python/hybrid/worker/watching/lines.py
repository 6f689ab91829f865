"""The two lines that each task has in a worker's log, on level INFO.

Where nobody but Celery's own handler gets them, they are formatted without a record, and written
together when the greenlet that logs gives way to others: those of messages are there before any of
their tasks starts. Whatever else is logged to the same place is written after the lines that came
before it.

Where a line might look otherwise, or somebody else look at it, it is Celery that logs it, from its
own line of code: so the records are Celery's. That is looked at for every line
(:mod:`~hybrid.worker.watching.passage`). What fails there costs no task.

Who may switch: a greenlet that writes lines, while it waits for the handler's lock, which a native
thread may have. Lines are taken when it has the lock, so that none is lost with one that is ended
there. The hub, which cannot wait, leaves them to such a greenlet. Native threads log by themselves.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import time
from logging.handlers import WatchedFileHandler
from typing import Any, Callable

from celery.app import trace

from hybrid import hubs, runtime
from hybrid.detours import LOGS
from hybrid.hubs.base import Hub
from hybrid.patches import celery as patches
from hybrid.patches.originals import Original
from hybrid.worker.watching import received
from hybrid.worker.watching.complaints import complain_of_the_log
from hybrid.worker.watching.passage import MESSAGE, Passage, constants

#: Lines that wait for the handler's lock; whoever logs another one waits for it as well.
LINES_HELD = 10_000
#: Seconds after which it is looked again whether lines need not go through ``logging`` any more.
LOOK_EVERY = 0.1

_TRACE_INFO = Original(trace, "info")


def _is_not() -> bool:
    return False


class _Lines:
    """Writes lines for one handler, many at a time."""

    def __init__(self, handler: Any, hub: Hub) -> None:
        self.handler = handler
        #: Where the lines that wait belong.
        self.stream = handler.stream
        self._hub = hub
        self._waiting: list[str] = []
        self._is_flushing = False
        #: The second and the millisecond that the next ones have a text for.
        self._second = self._millisecond = -1
        self._second_text = ""
        #: What comes before and behind the message in the lines of a logger, by its name.
        self._frames: dict[str, tuple[str, str]] = {}
        self._constants: dict[str, dict[str, Any]] = {}
        self._process = ""
        #: Tells whether the handler is as it was when these lines began.
        self.holds: Callable[[], bool] = _is_not
        atexit.register(self.flush)
        hubs.on_fork(self._forget)

    def begin(self, passage: Passage) -> None:
        """Go on with the handler as it is now, if it is another way than before."""
        if self.holds():
            return
        self.flush()
        self.stream = self.handler.stream
        self._second = -1
        self._constants.clear()
        for handler in (self.handler, *_writing_to(self.handler)):
            handler.addFilter(self)
        self.holds = passage.watch_handler()

    def filter(self, _: logging.LogRecord) -> bool:
        """Write what waits, before a handler writes something else."""
        self.flush()
        return True

    def write(self, name: str, message: str) -> None:
        """Write a line of the logger ``name`` soon."""
        waiting = self._waiting
        if not self._is_flushing:
            self._is_flushing = True
            self._hub.spawn(self._flush_soon)
        elif len(waiting) >= LINES_HELD:
            self.flush()
        now = time.time()
        second = int(now)
        millisecond = int((now - second) * 1000)
        if millisecond != self._millisecond or second != self._second:
            if second != self._second:
                formatter = self.handler.formatter
                self._second_text = time.strftime(
                    formatter.default_time_format, formatter.converter(now)
                )
            self._second, self._millisecond = second, millisecond
            self._frames.clear()
        before, behind = self._frames.get(name) or self._frame(name)
        waiting.append(f"{before}{message}{behind}")

    def _frame(self, name: str) -> tuple[str, str]:
        process = multiprocessing.current_process().name
        if process != self._process:
            self._process = process
            self._constants.clear()
        fields = self._constants.get(name)
        if fields is None:
            fields = self._constants[name] = constants(name)
        formatter = self.handler.formatter
        asctime = formatter.default_msec_format % (self._second_text, self._millisecond)
        fields["asctime"] = asctime
        before, behind = formatter._fmt.split(MESSAGE)
        frame = before % fields, behind % fields + self.handler.terminator
        self._frames[name] = frame
        return frame

    def _flush_soon(self) -> None:
        try:
            self.flush()
        finally:
            self._is_flushing = False

    def flush(self) -> None:
        """Write what waits now; in the hub, if the handler's lock is free."""
        waiting = self._waiting
        if not waiting:
            return
        handler = self.handler
        in_hub = self._hub.in_thread() and not self._hub.can_park()
        if handler.lock is not None and not handler.lock.acquire(blocking=not in_hub):
            return  # a greenlet writes them, or is about to
        try:
            # Others may log another one meanwhile, also in another thread.
            lines = waiting[:]
            del waiting[: len(lines)]
            self._frames.clear()
            if lines:
                self._put(lines)
        except Exception:
            self._report(lines)
        finally:
            handler.release()

    def _put(self, lines: list[str]) -> None:
        handler = self.handler
        if self.stream is handler.stream or self.stream.closed:
            if isinstance(handler, WatchedFileHandler):
                _reopen(handler)
            self.stream = handler.stream
        stream = self.stream
        try:
            stream.write("".join(lines))
        except UnicodeError:  # one of them cannot be written
            for line in lines:
                stream.write(line.encode("ascii", "backslashreplace").decode())
        stream.flush()

    def _report(self, lines: list[str]) -> None:
        try:
            record = logging.LogRecord(
                __name__, logging.INFO, __file__, 0, "%s", ("".join(lines),), None
            )
            self.handler.handleError(record)
        except Exception:
            complain_of_the_log()

    def _forget(self) -> None:
        """Leave what waits to the parent, in a forked child."""
        self._waiting.clear()


def _reopen(handler: WatchedFileHandler) -> None:
    if handler.stream is None:  # it was closed; whatever it gets next opens it again
        handler.stream = handler._open()
    else:
        handler.reopenIfNeeded()


def _writing_to(handler: Any) -> list[Any]:
    """Return the other handlers that write to where ``handler`` does."""
    path = getattr(handler, "baseFilename", None)
    found = []
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for other in getattr(logger, "handlers", ()):
            is_same = getattr(other, "stream", None) is handler.stream or (
                path is not None and getattr(other, "baseFilename", None) == path
            )
            if is_same and other is not handler and isinstance(other, logging.Handler):
                found.append(other)
    return found


class InfoLogger:
    """Logs what Celery would log, for messages with a mapping.

    Args:
        logger: The logger whose lines they are.
        hub: The hub of the worker.
        log: Logs one line in Celery's way.
        home: The module in which that looks up its ``logger``, if it does.
    """

    def __init__(
        self, logger: logging.Logger, hub: Hub, log: received.Log | None = None, home: Any = None
    ) -> None:
        #: Logs a line in Celery's way.
        self.log: received.Log = log or (
            lambda fmt, context: logger.info(fmt, context, extra={"data": context})
        )
        self._logger = logger
        self._hub = hub
        self._home = home
        self._lines: _Lines | None = None
        self._write: Callable[[str, str], None]
        #: Tells whether nothing has changed since lines were found to need no records.
        self._is_plain: Callable[[], bool] = _is_not
        self._causes: list[str] = []
        self._next_look = 0.0

    def __call__(self, fmt: str, context: dict[str, Any]) -> None:
        """Log ``fmt % context``, and pass ``context`` on as ``data``. Never raises."""
        try:
            if type(fmt) is str and (self._is_plain() or self._is_plain_again()):
                if not self._logger.isEnabledFor(logging.INFO):
                    return
                try:
                    text = fmt % context
                except Exception:  # logging says what is wrong with it
                    pass
                else:
                    self._write(self._logger.name, text)
                    return
            self.log(fmt, context)
        except Exception:
            complain_of_the_log()

    def _is_plain_again(self) -> bool:
        """Look whether lines need records where something has changed; count one that does."""
        if not self._hub.in_thread():
            return False
        if self._is_plain is not _is_not or time.monotonic() >= self._next_look:
            self.explain()
        for cause in self._causes:
            LOGS.note(cause)
        return not self._causes

    def explain(self) -> list[str]:
        """Say why lines go through :mod:`logging`; each reason is a sentence."""
        if self._lines is not None:
            self._lines.flush()  # these were logged before whatever has changed
        passage = Passage(self._logger, self._home, _Lines)
        self._causes, self._is_plain = passage.causes, _is_not
        if not self._causes:
            self._lines = lines = _lines_of(passage.handler, self._hub)
            lines.begin(passage)
            self._write = lines.write
            is_plain = passage.watch(lines, self._hub)
            if is_plain():
                self._is_plain = is_plain
            else:
                self._causes = ["it cannot be told whether something changes"]
        if self._causes:
            self._next_look = time.monotonic() + LOOK_EVERY
        return self._causes


def _lines_of(handler: Any, hub: Hub) -> _Lines:
    all_lines: list[_Lines] = runtime.current().lines
    for lines in all_lines:
        if lines.handler is handler:
            return lines
    lines = _Lines(handler, hub)
    all_lines.append(lines)
    return lines


class InfoLoggers:
    """Those of a worker: what logs that a message has been received, and Celery's tracer.

    Args:
        hub: The hub of the worker.
    """

    def __init__(self, hub: Hub) -> None:
        info = trace.info
        self._trace = self._wrapped = None
        if isinstance(info, InfoLogger):  # of another worker in this process
            info = info.log
        if info is _TRACE_INFO.function:
            self._trace = InfoLogger(trace.logger, hub, info, trace)
            patches.TRACE_INFO.replace(trace, self._trace)
        else:
            self._wrapped = _TRACE_INFO.explain(trace)
        #: Logs that a message has been received.
        self.received = InfoLogger(received.logger, hub, received.log)

    def explain(self) -> str | None:
        """Say why lines go through :mod:`logging` at the moment, if some do."""
        causes = [*self.received.explain()]
        if self._trace is not None:
            causes += self._trace.explain()
        else:
            causes.append(str(self._wrapped))
        return "; ".join(dict.fromkeys(causes)) or None


def gather(hub: Hub) -> InfoLoggers:
    """Have the lines of tasks written in groups."""
    return InfoLoggers(hub)
