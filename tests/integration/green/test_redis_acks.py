"""Messages that are acknowledged together, on our own channel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kombu import Connection

from hybrid.hubs.base import Hub
from hybrid.transports.redis import Transport

TRANSPORT = f"{Transport.__module__}:{Transport.__qualname__}"


@pytest.fixture
def messages(hub: Hub, plain: redis.Redis) -> Iterator[list[Any]]:
    """Ten messages that are not acknowledged, on a channel of the ``hub``."""
    info = plain.connection_pool.connection_kwargs
    url = f"redis://127.0.0.1:{info['port']}/{info['db']}"
    with Connection(url, transport=TRANSPORT) as connection:
        queue = connection.SimpleQueue("jobs")
        for number in range(10):
            queue.put(number)
        yield [queue.get(block=True, timeout=5) for _ in range(10)]


def writes(client: Any) -> int:
    """Return how often the shared connection has been written to."""
    count: int = client.statistics()["connection"]["writes"]
    return count


def test_the_record_of_a_single_message_is_kombus(plain: redis.Redis, messages: list[Any]) -> None:
    messages[0].channel._create_client().ping()  # behind the records, which nobody waits for
    records = {tag.decode(): json.loads(text) for tag, text in plain.hgetall("unacked").items()}
    assert records == {message.delivery_tag: [message._raw, "jobs", "jobs"] for message in messages}
    assert len(records) == plain.zcard("unacked_index") == 10


def test_they_are_acknowledged_in_one_write(plain: redis.Redis, messages: list[Any]) -> None:
    channel = messages[0].channel
    messages[3].ack()
    client = channel._create_client()
    client.ping()
    before = writes(client)
    assert channel.ack_together(messages) == [number != 3 for number in range(10)]
    assert writes(client) == before + 1
    assert all(message.acknowledged for message in messages)
    assert not channel.qos._delivered
    channel._create_client().ping()  # behind the acknowledgements, whose replies nobody reads
    assert not plain.exists("unacked", "unacked_index")
    assert channel.ack_together(messages) == [False] * 10


def test_what_cannot_be_acknowledged_is_left_as_it_was(
    plain: redis.Redis, messages: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = messages[0].channel

    def fail(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(channel._create_client(), "send", fail)
        assert channel.ack_together(messages) == [False] * 10
    assert not any(message.acknowledged for message in messages)
    assert len(channel.qos._delivered) == plain.hlen("unacked") == 10
    assert channel.ack_together(messages[:4]) == [True] * 4
    channel._create_client().ping()
    assert plain.hlen("unacked") == 6
