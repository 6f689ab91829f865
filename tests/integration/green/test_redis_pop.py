"""The script takes messages in kombu's order, and leaves kombu's record of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from kombu import Connection

from hybrid.transports.redis.ledger import LIMIT, Popper, passes

UNACKED = ("unacked", "unacked_index")


@pytest.fixture
def popper(plain: redis.Redis) -> Popper:
    return Popper(plain)


def publish(plain: redis.Redis, *bodies: str, **options: Any) -> None:
    """Publish with kombu's own transport."""
    info = plain.connection_pool.connection_kwargs
    url = f"redis://127.0.0.1:{info['port']}/{info['db']}"
    with Connection(url) as connection:
        producer = connection.Producer()
        for body in bodies:
            producer.publish(body, routing_key=options.pop("routing_key", "jobs"), **options)


def pop(popper: Popper, *lists: str, width: int = 1, limit: int = 10, fair: bool = True) -> Any:
    return popper.pop(UNACKED, lists, width, now=1234.5, limit=limit, fair=fair)


def names(popped: Any) -> list[str]:
    return [entry.entry.decode() for entry in popped]


def test_a_message_is_recorded_as_kombu_records_it(popper: Popper, plain: redis.Redis) -> None:
    publish(plain, "one", "two", headers={"key": 'a "quoted" \\ value'})
    first, second = pop(popper, "jobs")
    envelope = json.loads(first.entry)
    assert first.tag == envelope["properties"]["delivery_tag"]
    assert json.loads(plain.hget("unacked", first.tag)) == [envelope, "", "jobs"]
    assert plain.zscore("unacked_index", first.tag) == 1234.5
    assert plain.hlen("unacked") == plain.zcard("unacked_index") == 2
    assert plain.llen("jobs") == 0
    assert second.tag != first.tag


def envelope(**properties: Any) -> str:
    info = {"exchange": 'ex"\\é', "routing_key": "rk", "redelivered": True}
    defaults = {"delivery_tag": "tag", "delivery_info": info}
    return json.dumps({"properties": {**defaults, **properties}, "body": "x", "headers": {}})


def test_an_envelope_of_another_make_is_recorded_too(popper: Popper, plain: redis.Redis) -> None:
    text = envelope()
    plain.lpush("jobs", text)
    [entry] = pop(popper, "jobs")
    assert (entry.tag, entry.entry.decode()) == ("tag", text)
    assert json.loads(plain.hget("unacked", "tag")) == [json.loads(text), 'ex"\\é', "rk"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "17",
        "null",
        '"text"',
        "{}",
        '{"properties": 1}',
        '{"properties": {"delivery_info": []}}',
        envelope(delivery_tag=17),
        envelope(delivery_tag=None),
        envelope(delivery_info={"exchange": 1, "routing_key": "rk"}),
        "[" * 2000,
        '{"a": "\xff\x00',
    ],
)
def test_what_is_no_message_is_returned_and_not_recorded(
    popper: Popper, plain: redis.Redis, text: str
) -> None:
    raw = text.encode("latin-1")
    plain.lpush("jobs", raw)
    publish(plain, "good")
    bad, good = pop(popper, "jobs")
    assert (bad.tag, bad.entry) == (None, raw)
    assert plain.hkeys("unacked") == [good.tag.encode()]


def test_a_tag_within_a_header_is_not_taken_for_the_messages(
    popper: Popper, plain: redis.Redis
) -> None:
    fake = (
        '"delivery_info": {"exchange": "", "routing_key": "x"}, "priority": 0, '
        '"body_encoding": "base64", "delivery_tag": "fake"}}'
    )
    publish(plain, "one", headers={"argsrepr": fake, "delivery_tag": "fake"})
    [entry] = pop(popper, "jobs")
    assert entry.tag == json.loads(entry.entry)["properties"]["delivery_tag"] != "fake"


def test_high_priorities_first_then_the_oldest(popper: Popper, plain: redis.Redis) -> None:
    plain.lpush("low", "l1", "l2")
    plain.lpush("high", "h1", "h2")
    assert names(pop(popper, "high", "low", limit=3)) == ["h1", "h2", "l1"]
    assert names(pop(popper, "high", "low", limit=3)) == ["l2"]
    assert pop(popper, "high", "low") == []


def test_fair_queues_take_turns_within_a_priority(popper: Popper, plain: redis.Redis) -> None:
    plain.lpush("a", "a1", "a2", "a3")
    plain.lpush("b", "b1")
    plain.lpush("a low", "a4")
    plain.lpush("b low", "b2")
    popped = pop(popper, "a", "b", "a low", "b low", width=2)
    assert names(popped) == ["a1", "b1", "a2", "a3", "a4", "b2"]
    assert [entry.queue for entry in popped] == [0, 1, 0, 0, 0, 1]


def test_ordered_queues_come_one_after_another(popper: Popper, plain: redis.Redis) -> None:
    plain.lpush("a", "a1", "a2")
    plain.lpush("b", "b1", "b2")
    popped = pop(popper, "a", "b", width=2, limit=3, fair=False)
    assert names(popped) == ["a1", "a2", "b1"]


def test_no_more_than_the_limit_are_taken(popper: Popper, plain: redis.Redis) -> None:
    publish(plain, *map(str, range(LIMIT + 5)))
    assert len(pop(popper, "jobs", limit=10_000)) == LIMIT
    assert plain.llen("jobs") == 5
    assert plain.hlen("unacked") == LIMIT


def test_fewer_large_messages_are_taken_at_once(popper: Popper, plain: redis.Redis) -> None:
    plain.lpush("jobs", *[b"x" * 300_000] * 10)
    first = len(pop(popper, "jobs", limit=2))
    assert [first, len(pop(popper, "jobs")), len(pop(popper, "jobs"))] == [2, 3, 3]


@pytest.mark.parametrize("fair", [True, False])
def test_a_key_of_another_type_is_left_out_and_named(
    fair: bool, popper: Popper, plain: redis.Redis
) -> None:
    publish(plain, "a1", routing_key="a")
    publish(plain, "a2", routing_key="a")
    plain.set("b", "text")
    plain.sadd("c low", "member")
    assert len(pop(popper, "a", "b", "c", "a low", "b low", "c low", width=3, fair=fair)) == 2
    assert popper.misfits == {"b": "string", "c low": "set"}
    assert plain.hlen("unacked") == 2

    publish(plain, "a3", routing_key="a")
    plain.delete("b")
    assert len(pop(popper, "a", "b", "c", "a low", "b low", "c low", width=3, limit=1)) == 1
    assert popper.misfits == {"c low": "set"}, "it was not looked at again"


@pytest.mark.parametrize("key", UNACKED)
def test_what_cannot_be_recorded_stays_where_it_is(
    key: str, popper: Popper, plain: redis.Redis
) -> None:
    publish(plain, *map(str, range(10)))
    before = plain.lrange("jobs", 0, -1)
    plain.set(key, "text")
    with pytest.raises(redis.ResponseError, match=f"{key} is a string, not a") as caught:
        pop(popper, "jobs")
    assert passes(caught.value)
    assert plain.lrange("jobs", 0, -1) == before
    plain.delete(key)
    assert not plain.exists(*UNACKED)
    assert len(pop(popper, "jobs")) == 10


@pytest.mark.parametrize("command", ["zadd", "hset", "hlen", "lrange", "llen", "ltrim"])
def test_a_command_that_is_not_permitted_costs_no_message(command: str, plain: redis.Redis) -> None:
    publish(plain, *map(str, range(10)))
    before = plain.lrange("jobs", 0, -1)
    plain.acl_setuser(
        "poor", enabled=True, nopass=True, keys="*", commands=["+@all", f"-{command}"]
    )
    options = plain.connection_pool.connection_kwargs
    try:
        with redis.Redis(port=options["port"], db=options["db"], username="poor") as poor:
            with pytest.raises(redis.ResponseError) as caught:
                pop(Popper(poor), "jobs")
            assert not passes(caught.value)
    finally:
        plain.acl_deluser("poor")
    assert plain.lrange("jobs", 0, -1) == before
    assert not plain.hlen("unacked")
