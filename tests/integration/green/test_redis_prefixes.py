"""Consuming with any prefix of keys."""

from __future__ import annotations

import os

import kombu
import pytest
import redis

from hybrid.hubs.base import Hub


@pytest.mark.parametrize("prefix", ["prefix.", "{a}%s[*]-", "ü?\\^"])
def test_what_is_published_with_a_prefix_is_consumed(
    hub: Hub, plain: redis.Redis, prefix: str
) -> None:
    connection = kombu.Connection(
        os.environ["REDIS_URL"],
        transport="hybrid.transports.redis:Transport",
        transport_options={"global_keyprefix": prefix},
    )
    news = kombu.Exchange("news[1]", "fanout")
    found = []
    with (
        connection,
        connection.Consumer(
            [kombu.Queue("jobs"), kombu.Queue("reader", news)],
            callbacks=[lambda body, message: (found.append(body), message.ack())],
        ),
    ):
        producer = connection.clone().Producer()
        connection.drain_events(timeout=5)  # the confirmation that it has subscribed
        producer.publish("a job", routing_key="jobs")
        producer.publish("some news", exchange=news, declare=[news])
        while len(found) < 2:
            connection.drain_events(timeout=5)
    assert sorted(found) == ["a job", "some news"]
    assert all(key.decode().startswith(prefix) for key in plain.scan_iter())
