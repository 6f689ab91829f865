"""The INFO lines of tasks are those that ``logging`` writes, in its order."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import re
import struct
import termios
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, Callable

import pytest
from celery.app.defaults import DEFAULT_PROCESS_LOG_FMT
from celery.utils.log import ColorFormatter

from hybrid.hubs.base import Hub
from hybrid.hubs.parking import Place
from hybrid.worker.watching import lines
from hybrid.worker.watching.lines import InfoLogger

CONTEXT = {"name": "tests.add", "id": "1-2"}
MESSAGE = "Task %(name)s[%(id)s] received"


@pytest.fixture
def logger() -> logging.Logger:
    # Not one of `logging.getLogger`: pytest adds a handler of its own to those.
    return logging.Logger("test_lines", logging.INFO)


def attach(logger: logging.Logger, handler: Any, line: str = DEFAULT_PROCESS_LOG_FMT) -> Any:
    handler.setFormatter(ColorFormatter(line, use_color=False))
    logger.addHandler(handler)
    return handler


def without_time(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", "TIME", text)


@pytest.mark.parametrize(
    "line",
    [
        DEFAULT_PROCESS_LOG_FMT,
        "%(name)s %(levelno)d %(process)d %(message)s",
        "%(threadName)s %(funcName)s %(message)s",
        "100 %% of %(asctime)s %(name)s: %(message)s, %% and %(levelname)s",
        "%(message)40s|%(name)s",
        "%(message)s twice: %(message)s",
        "%%(message)s is %(name)s",
        "nothing but %(name)s",
    ],
)
def test_lines_are_those_of_logging(
    hub: Hub, logger: logging.Logger, line: str, turns: Callable[..., None]
) -> None:
    stream = io.StringIO()
    attach(logger, logging.StreamHandler(stream), line)

    def info(fmt: str, context: dict[str, Any]) -> None:
        logger.info(fmt, context, extra={"data": context})

    log = InfoLogger(logger, hub, info)
    log(MESSAGE, CONTEXT)
    turns()
    ours = without_time(stream.getvalue())
    stream.truncate(0)
    stream.seek(0)
    info(MESSAGE, CONTEXT)
    assert ours == without_time(stream.getvalue())


def test_the_times_of_lines_are_those_of_logging(
    hub: Hub, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, turns: Callable[..., None]
) -> None:
    stream = io.StringIO()
    handler = attach(logger, logging.StreamHandler(stream), "%(asctime)s %(message)s")
    log = InfoLogger(logger, hub)
    expected = []
    for moment in (1.7e9, 1.7e9 + 0.0015, 1.7e9 + 0.0019, 1.7e9 + 0.9999, 1.7e9 + 1.25, 1.7e9):
        monkeypatch.setattr(lines.time, "time", lambda now=moment: now)
        log(MESSAGE, CONTEXT)
        record = logging.LogRecord("x", logging.INFO, __file__, 0, MESSAGE, CONTEXT, None)
        record.created, record.msecs = moment, int(moment % 1 * 1000)
        expected.append(handler.formatter.format(record))
    monkeypatch.undo()
    turns()
    assert stream.getvalue().splitlines() == expected


def test_other_records_come_after_the_lines_before_them(
    hub: Hub, logger: logging.Logger, turns: Callable[..., None]
) -> None:
    stream = io.StringIO()
    attach(logger, logging.StreamHandler(stream), "%(message)s")
    log = InfoLogger(logger, hub)
    for number in range(3):
        log("line %(number)d", {"number": number})
        logger.warning("warning %d", number)
    log("the last", {"number": 3})
    turns()
    expected = [f"{kind} {number}" for number in range(3) for kind in ("line", "warning")]
    assert stream.getvalue().splitlines() == [*expected, "the last"]


def test_lines_of_a_turn_are_one_write(
    hub: Hub, logger: logging.Logger, turns: Callable[..., None]
) -> None:
    reader, writer = os.pipe2(os.O_DIRECT)  # keeps what is written at once together
    with open(writer, "w") as stream:
        attach(logger, logging.StreamHandler(stream), "%(message)s")
        log = InfoLogger(logger, hub)
        for _ in range(5):
            log(MESSAGE, CONTEXT)
        assert struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4))) == (0,)
        turns()
        assert os.read(reader, 4096).decode() == f"{MESSAGE % CONTEXT}\n" * 5
    os.close(reader)


def test_a_handler_of_somebody_elses_gets_records(hub: Hub, logger: logging.Logger) -> None:
    records: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    stream = io.StringIO()
    attach(logger, logging.StreamHandler(stream))
    log = InfoLogger(logger, hub)
    log(MESSAGE, CONTEXT)
    collector = Collector()
    logger.addHandler(collector)
    log(MESSAGE, CONTEXT)
    assert [record.getMessage() for record in records] == [MESSAGE % CONTEXT]
    assert records[0].data == CONTEXT  # type: ignore[attr-defined]
    assert len(stream.getvalue().splitlines()) == 2


def test_the_level_may_change(hub: Hub, logger: logging.Logger, turns: Callable[..., None]) -> None:
    stream = io.StringIO()
    handler = attach(logger, logging.StreamHandler(stream))
    log = InfoLogger(logger, hub)
    logger.setLevel(logging.WARNING)
    log(MESSAGE, CONTEXT)
    logger.setLevel(logging.INFO)
    handler.setLevel(logging.WARNING)
    log(MESSAGE, CONTEXT)
    turns()
    assert stream.getvalue() == ""


def test_a_file_that_was_moved_is_opened_anew(
    hub: Hub, logger: logging.Logger, tmp_path: Path, turns: Callable[..., None]
) -> None:
    path = tmp_path / "worker.log"
    handler = attach(logger, WatchedFileHandler(path, encoding="utf-8"), "%(message)s")
    log = InfoLogger(logger, hub)
    log("one %(x)d", {"x": 1})
    turns()
    path.rename(tmp_path / "old.log")
    log("two %(x)d", {"x": 2})
    turns()
    handler.close()
    assert (tmp_path / "old.log").read_text() == "one 1\n"
    assert path.read_text() == "two 2\n"


def test_what_cannot_be_encoded_loses_no_line(
    hub: Hub, logger: logging.Logger, tmp_path: Path, turns: Callable[..., None]
) -> None:
    handler = attach(
        logger, WatchedFileHandler(tmp_path / "worker.log", encoding="ascii"), "%(message)s"
    )
    log = InfoLogger(logger, hub)
    for text in ("plain", "é"):
        log("%(text)s", {"text": text})
    turns()
    handler.close()
    assert (tmp_path / "worker.log").read_text() == "plain\n\\xe9\n"


def test_lines_wait_for_a_native_thread_that_writes(
    hub: Hub, logger: logging.Logger, native: Any, until: Any
) -> None:
    if hub.name == "eventlet":
        pytest.skip("eventlet's locks do not work across native threads")
    stream = io.StringIO()
    handler = attach(logger, logging.StreamHandler(stream), "%(message)s")
    log = InfoLogger(logger, hub)
    has_lock, may_go_on = [False], [False]

    def hold() -> None:
        handler.acquire()
        has_lock[0] = True
        while not may_go_on[0]:
            native.sleep(0.001)
        handler.release()

    log("first", {})
    until(stream.getvalue)
    native.start(hold)
    until(lambda: has_lock[0])
    for number in range(3):
        log(f"line {number}", {})
    hub.sleep(0.005)
    log("line 3", {})
    assert stream.getvalue() == "first\n"
    may_go_on[0] = True
    until(lambda: stream.getvalue().count("\n") == 5)
    assert stream.getvalue() == "first\nline 0\nline 1\nline 2\nline 3\n"


def test_a_native_thread_logs_by_itself(
    hub: Hub, logger: logging.Logger, in_native_thread: Any
) -> None:
    if hub.name == "eventlet":
        pytest.skip("eventlet's locks do not work across native threads")
    stream = io.StringIO()
    attach(logger, logging.StreamHandler(stream), "%(message)s")
    log = InfoLogger(logger, hub)
    log("of the hub's thread", CONTEXT)
    in_native_thread(lambda: log("of a native thread", CONTEXT))
    assert stream.getvalue() == "of the hub's thread\nof a native thread\n"


@pytest.mark.parametrize("others", ["the same lines", "another formatter"])
def test_two_loggers_of_one_handler_notice_what_came_and_went(
    hub: Hub, logger: logging.Logger, turns: Callable[..., None], others: str
) -> None:
    """One looks while the stream is another one, the other only before and after."""
    first, second = io.StringIO(), io.StringIO()
    handler = attach(logger, logging.StreamHandler(first), "%(message)s")
    formatter = handler.formatter
    ours, theirs = InfoLogger(logger, hub), InfoLogger(logger, hub)
    ours("1", CONTEXT)
    theirs("2", CONTEXT)
    handler.setStream(second)
    if others == "another formatter":
        handler.setFormatter(ColorFormatter("3: %(message)s", use_color=False))
    theirs("3", CONTEXT)
    handler.setStream(first)
    handler.setFormatter(formatter)
    ours("4", CONTEXT)
    turns()
    assert (first.getvalue().split(), second.getvalue().split()[-1]) == (["1", "2", "4"], "3")


def test_one_that_is_ended_while_it_waits_to_write_takes_no_lines_along(
    hub: Hub, logger: logging.Logger, until: Any
) -> None:
    stream = io.StringIO()
    handler = attach(logger, logging.StreamHandler(stream), "%(message)s")
    log = InfoLogger(logger, hub)
    gate = Place(hub)

    def hold() -> None:
        with handler.lock:
            gate.wait()

    ended: list[Any] = []

    def write() -> None:
        try:
            logger.info("its own")
        except KeyError as exc:
            ended.append(exc)

    hub.spawn(hold)
    hub.sleep(0.001)
    log("line", {})
    writer = hub.spawn(write)
    hub.sleep(0.001)
    hub.call_soon(hub.interrupt, writer, KeyError)
    until(lambda: ended)
    gate.tell()
    until(stream.getvalue)
    assert stream.getvalue() == "line\n"


def test_lines_are_bounded(
    hub: Hub, logger: logging.Logger, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LINES_HELD", 10)
    stream = io.StringIO()
    handler = attach(logger, logging.StreamHandler(stream), "%(message)s")
    log = InfoLogger(logger, hub)
    gate = Place(hub)

    def hold() -> None:
        with handler.lock:
            gate.wait()

    logged: list[int] = []

    def write() -> None:
        for number in range(100):
            log(str(number), {})
            logged.append(number)

    hub.spawn(hold)
    hub.sleep(0.001)
    hub.spawn(write)
    hub.sleep(0.005)
    assert len(logged) == 10
    gate.tell()
    until(lambda: stream.getvalue().count("\n") == 100)
    assert stream.getvalue().split() == [str(number) for number in range(100)]


def test_the_hub_itself_does_not_wait(hub: Hub, logger: logging.Logger, until: Any) -> None:
    stream = io.StringIO()
    handler = attach(logger, logging.StreamHandler(stream), "%(message)s")
    log = InfoLogger(logger, hub)
    gate = Place(hub)

    def hold() -> None:
        with handler.lock:
            gate.wait()

    def flush_in_the_hub() -> None:
        log("line", {})
        for one in handler.filters:
            one.filter(None)
        seen.append("goes on")

    seen: list[str] = []
    hub.spawn(hold)
    hub.sleep(0.001)
    hub.call_soon(flush_in_the_hub)
    until(lambda: seen)
    assert stream.getvalue() == ""
    gate.tell()
    until(stream.getvalue)
    assert stream.getvalue() == "line\n"
