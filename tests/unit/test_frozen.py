"""Messages that are frozen and made again are the messages that came."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.transport import pyamqp, virtual

from hybrid.transports.frozen import form_of
from hybrid.transports.message import Message, decode_envelope

HEADERS = {"task": "add", "id": "5", "eta": "2030-01-01T00:00:00+00:00", "stamps": {"ä": [1.5]}}


class Channel(SimpleNamespace):
    """Makes messages as a channel does."""

    def __init__(self, cls: Any) -> None:
        super().__init__(Message=cls, no_ack_consumers=None, qos=None)


def _seen(message: Any) -> dict[str, Any]:
    names = (
        *("body", "channel", "content_encoding", "content_type", "delivery_info", "delivery_tag"),
        *("errors", "headers", "properties", "payload", "acknowledged"),
    )
    return {name: getattr(message, name) for name in names}


def envelope(as_text: bool) -> Message:
    text = json.dumps(
        {
            "body": "W1sxXSwge30sIHt9XQ==",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": HEADERS,
            "properties": {
                "correlation_id": "5",
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": "q"},
                "delivery_tag": "tag",
            },
        }
    )
    return Message(decode_envelope(text if as_text else text.encode()), channel=Channel(Message))


def amqp_message() -> Any:
    received = SimpleNamespace(
        body="[[1], {}, {}]",
        delivery_tag=2**40,
        delivery_info={
            "consumer_tag": "1",
            "delivery_tag": 2**40,
            "redelivered": True,
            "exchange": "",
            "routing_key": "q",
        },
        properties={
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "application_headers": dict(HEADERS),
            "priority": 3,
        },
    )
    return pyamqp.Message(received, channel=Channel(pyamqp.Message))


@pytest.mark.parametrize(
    "message",
    [envelope(as_text=True), envelope(as_text=False), amqp_message()],
    ids=["envelope in text", "envelope in bytes", "amqp"],
)
def test_a_message_comes_back_as_it_was(message: Any) -> None:
    form = form_of(message)
    assert form is not None
    data = form.freeze(message)
    assert isinstance(data, bytes)
    thawed = form.thaw(data, message.channel)
    assert type(thawed) is type(message)
    assert _seen(thawed) == _seen(message)


def test_a_kind_of_message_that_nobody_knows_has_no_form() -> None:
    payload = {"body": None, "properties": {"delivery_tag": "1"}}
    assert form_of(virtual.Message(payload, channel=Channel(virtual.Message))) is None


def test_an_envelope_that_kombu_decoded_is_left_alone() -> None:
    payload = {"properties": {"delivery_tag": "1", "delivery_info": {}}, "headers": {}}
    message = Message(payload, channel=Channel(Message))
    form = form_of(message)
    assert form is not None
    assert form.freeze(message) is None


@pytest.mark.parametrize(
    "headers",
    [{"compression": "application/x-gzip"}, {"moment": datetime(2030, 1, 1, tzinfo=timezone.utc)}],
    ids=["compressed", "timestamp"],
)
def test_an_amqp_message_that_would_lose_something_is_left_alone(headers: dict[str, Any]) -> None:
    message = amqp_message()
    message.headers.update(headers)
    form = form_of(message)
    assert form is not None
    assert form.freeze(message) is None
