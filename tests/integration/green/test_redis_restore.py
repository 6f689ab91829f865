"""Messages are put back where kombu puts them, each once."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from kombu import Connection

from hybrid.transports.message import decode_envelope
from hybrid.transports.redis.ledger import restore


@pytest.fixture(params=["", "prefix."])
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def hold(plain: redis.Redis, prefix: str, count: int, transport: str = "redis") -> Any:
    """Return a channel of kombu's own with messages that are not acknowledged."""
    info = plain.connection_pool.connection_kwargs
    url = f"redis://127.0.0.1:{info['port']}/{info['db']}"
    connection = Connection(
        url, transport=transport, transport_options={"global_keyprefix": prefix}
    )
    channel = connection.channel()
    producer = connection.Producer(channel)
    queue = connection.SimpleQueue("jobs", channel=channel)
    for number in range(count):
        producer.publish(str(number), routing_key="jobs", priority=number % 2 * 3)
    for _ in range(count):
        queue.get(block=True, timeout=5)
    return channel


def test_they_are_where_and_as_kombu_puts_them(plain: redis.Redis, prefix: str) -> None:
    seen = []
    for is_ours in (False, True):
        plain.flushdb()
        channel = hold(plain, prefix, 6)
        tags = list(channel.qos._delivered)
        assert plain.hlen(prefix + "unacked") == 6
        if is_ours:
            assert restore(channel, channel._create_client(), tags) == 6
        else:
            channel.qos.restore_unacked()
        channel.qos._delivered.clear()
        assert not plain.exists(prefix + "unacked", prefix + "unacked_index")
        lists = {
            key: [json.loads(text) for text in plain.lrange(key, 0, -1)]
            for key in (prefix + "jobs", prefix + "jobs\x06\x163")
        }
        assert all(len(messages) == 3 for messages in lists.values())
        for messages in lists.values():
            for message in messages:
                message["properties"].pop("delivery_tag")
        seen.append(lists)
        channel.connection.client.release()
    assert seen[0] == seen[1]


def test_what_somebody_else_has_put_back_stays_there_once(plain: redis.Redis) -> None:
    channel = hold(plain, "", 3)
    tags = list(channel.qos._delivered)
    client = channel._create_client()
    assert restore(channel, client, tags[:2]) == 2
    assert restore(channel, client, tags) == 1
    assert plain.llen("jobs") + plain.llen("jobs\x06\x163") == 3
    channel.qos._delivered.clear()
    channel.connection.client.release()


def test_a_message_goes_back_that_has_only_just_come(
    plain: redis.Redis, prefix: str, hub: Any
) -> None:
    # A queue whose consumer has been cancelled may still get a message, which is put back at once.
    channel = hold(plain, prefix, 0, "hybrid.transports.redis:Transport")
    for number in range(20):
        plain.flushdb()
        channel.connection.client.Producer(channel).publish("text", routing_key="jobs")
        message = channel.Message(decode_envelope(plain.rpop(prefix + "jobs")), channel=channel)
        tag = str(number)
        channel.qos.append(message, tag)
        channel.qos.restore_by_tag(tag, leftmost=True)
        assert plain.llen(prefix + "jobs") == 1
        hub.sleep(0.001)
        assert not plain.exists(prefix + "unacked", prefix + "unacked_index")
    channel.qos._delivered.clear()
    channel.connection.client.release()


def test_what_cannot_be_put_back_stays_recorded(plain: redis.Redis, prefix: str) -> None:
    channel = hold(plain, prefix, 4)
    tags = list(channel.qos._delivered)
    records = plain.hgetall(prefix + "unacked")
    plain.set(prefix + "jobs", "somebody else's")
    assert restore(channel, channel._create_client(), tags) == 2, "those of the other priority"
    assert plain.llen(prefix + "jobs\x06\x163") == 2
    left = plain.hgetall(prefix + "unacked")
    assert len(left) == plain.zcard(prefix + "unacked_index") == 2
    assert left.items() <= records.items()

    plain.delete(prefix + "jobs")
    assert restore(channel, channel._create_client(), tags) == 2
    assert plain.llen(prefix + "jobs") == 2
    assert not plain.exists(prefix + "unacked", prefix + "unacked_index")
    channel.qos._delivered.clear()
    channel.connection.client.release()


def test_a_message_goes_back_to_the_side_that_is_asked_for(plain: redis.Redis) -> None:
    channel = hold(plain, "", 1)
    [tag] = channel.qos._delivered
    plain.lpush("jobs", "other")
    restore(channel, channel._create_client(), [tag], leftmost=True)
    assert plain.lindex("jobs", -1) == b"other"
    channel.qos._delivered.clear()
    channel.connection.client.release()


def test_an_index_without_a_record_is_forgotten(plain: redis.Redis) -> None:
    channel = hold(plain, "", 0)
    plain.zadd("unacked_index", {"gone": 1.0})
    assert restore(channel, channel._create_client(), ["gone"]) == 0
    assert not plain.exists("unacked_index")
    channel.connection.client.release()


def test_one_message_is_not_lost_to_a_key_of_another_type(plain: redis.Redis, prefix: str) -> None:
    channel = hold(plain, prefix, 1, "hybrid.transports.redis:Transport")
    [tag] = channel.qos._delivered
    plain.set(prefix + "jobs", "somebody else's")
    channel.qos.restore_by_tag(tag)
    channel.qos.restore_by_tag(tag, client=channel._create_client())
    assert plain.hlen(prefix + "unacked") == 1
    plain.delete(prefix + "jobs")
    channel.qos.restore_by_tag(tag, client=channel._create_client())
    assert plain.llen(prefix + "jobs") == 1
    assert not plain.exists(prefix + "unacked", prefix + "unacked_index")
    channel.qos._delivered.clear()
    channel.connection.client.release()
