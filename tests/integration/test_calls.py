"""The messages of every kind of call that a task makes are Celery's, to the byte."""

from __future__ import annotations

import base64
import bz2
import importlib
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import amqp
import pytest
from amqp.exceptions import NotFound
from amqp.serialization import GenericContent
from harness.worker import SETTINGS_VARIABLE, StartWorker

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?(?:[+-]\d\d:\d\d|Z)?")
_ORIGIN = re.compile(r"gen\d+@")
#: Milliseconds, 19 or 20 days.
_EXPIRATION = re.compile(r"(?<!\d)1[67]\d{8}(?!\d)")

SETTINGS: dict[str, dict[str, Any]] = {
    "Celery's": {},
    "an event for each": {"task_send_sent_event": True, "task_inherit_parent_priority": True},
    "protocol 1": {"task_protocol": 1},
    "many settings": {
        "task_compression": "zlib",
        "task_default_delivery_mode": "transient",
        "task_default_priority": 3,
        "task_publish_retry": False,
        "enable_utc": False,
        "timezone": "Asia/Kolkata",
    },
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The project, for the names of what it does."""
    monkeypatch.setenv(SETTINGS_VARIABLE, "{}")
    return importlib.import_module("calls")


@pytest.mark.thorough(settings=("an event for each", "protocol 1", "many settings"))
@pytest.mark.parametrize("settings", SETTINGS)
def test_messages_are_those_of_a_stock_pool(
    start_worker: StartWorker, pool: str, calls: Any, settings: str
) -> None:
    stock = _messages(start_worker, pool.removeprefix("hybrid."), calls, SETTINGS[settings])
    ours = _messages(start_worker, pool, calls, SETTINGS[settings])
    assert sum(bool(messages) for _, messages in stock.values()) > 115
    differing = {kind: (stock[kind], ours[kind]) for kind in stock if stock[kind] != ours[kind]}
    for kind, (theirs, own) in differing.items():
        print(f"{kind}\n  stock {theirs}\n  ours  {own}")
    assert not differing


def _messages(
    start_worker: StartWorker, pool: str, calls: Any, settings: dict[str, Any]
) -> dict[str, tuple[str, list[str]]]:
    """Return what each kind of call returned to its task, and the messages that it sent."""
    worker = start_worker(
        app="calls",
        pool=pool,
        concurrency=4,
        options=["-Q", "calls"],
        # What is sent has arrived.
        settings={"broker_transport_options": {"confirm_publish": True}, **settings},
    )
    found = {}
    take = _taken_from_redis if worker.space.broker == "redis" else _taken_from_rabbitmq
    with worker.client.connection_for_read() as connection:
        channel = connection.channel()
        for kind in calls.KINDS:
            sent = worker.client.send_task("call", (kind,), queue="calls")
            outcome = sent.get(timeout=15)
            messages = [text for queue in calls.QUEUES for text in take(channel, queue)]
            found[kind] = (
                _normal(outcome),
                [_normal(text.replace(sent.id, "<caller>")) for text in messages],
            )
    worker.stop()  # what it has acknowledged has arrived
    return found


def _taken_from_redis(channel: Any, queue: str) -> Iterator[str]:
    for priority in channel.priority_steps:
        key = channel._q_for_pri(queue, priority)
        while entry := channel.client.rpop(key):
            envelope = entry.decode()
            body = json.loads(envelope)["body"]
            yield f"{key!r} {envelope.replace(body, 'BODY')} {_plain(base64.b64decode(body))!r}"


def _plain(body: Any) -> Any:
    """Return the body, not compressed: how long that gets depends on ids and times."""
    for decompress in (zlib.decompress, bz2.decompress):
        with suppress(zlib.error, OSError, TypeError):
            return decompress(body)
    return body


def _taken_from_rabbitmq(channel: Any, queue: str) -> Iterator[str]:
    while True:
        try:
            message = amqp.Channel.basic_get(channel, queue, no_ack=True)
        except NotFound:
            return
        if message is None:
            return
        info, body = message.delivery_info, message.body
        yield f"{info['exchange']!r} {info['routing_key']!r} {message.header!r} {_plain(body)!r}"


@pytest.fixture(autouse=True)
def _headers_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let py-amqp keep the bytes of the properties."""
    load = GenericContent._load_properties

    def load_and_keep(self: Any, class_id: int, buf: bytes, offset: int) -> Any:
        self.header = bytes(buf[offset:])
        return load(self, class_id, buf, offset)

    monkeypatch.setattr(GenericContent, "_load_properties", load_and_keep)


def _normal(text: str) -> str:
    seen: dict[str, str] = {}
    text = _UUID.sub(lambda found: seen.setdefault(found[0], f"<uuid {len(seen)}>"), text)
    text = _EXPIRATION.sub("<expiration>", _TIME.sub(_normal_time, text))
    return _ORIGIN.sub("gen@", text)


def _normal_time(found: re.Match[str]) -> str:
    """What is near is made from the present time; its form stays."""
    when = datetime.fromisoformat(found[0].replace("Z", "+00:00"))
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    if abs(when - datetime.now(timezone.utc)) < timedelta(days=30):
        return re.sub(r"\d", "0", found[0])
    return found[0]
