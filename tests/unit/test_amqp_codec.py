"""AMQP streams and messages are to hybrid what they are to py-amqp, in both directions.

Every test here gives the same bytes, or the same values, to py-amqp and to hybrid, and compares
values, types and bytes. ``data/rabbitmq.amqp`` is what a real RabbitMQ sent;
``python -m tests.harness.record_amqp`` makes it again.
"""

from __future__ import annotations

import datetime
import enum
import itertools
import math
import struct
import sys
from collections import OrderedDict
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp import spec
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import decode_properties_basic, dumps, loads
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybrid._rust import (
    AckWindow,
    AmqpDelivery,
    AmqpError,
    AmqpReader,
    decode_properties,
    encode_ack,
    encode_acks,
    encode_nack,
    encode_publish,
    encode_qos,
    encode_reject,
)

RECORDING = Path(__file__).parent / "data" / "rabbitmq.amqp"
RECORDED_FRAME_MAX = 4096
FRAME_MAX = 131072
PY_AMQP = tuple(int(part) for part in amqp.__version__.split(".")[:2])


def exact(value: Any) -> Any:
    """Make ``value`` compare by type as well, and in its order."""
    if type(value) is dict:
        return dict, [(exact(key), exact(item)) for key, item in value.items()]
    if type(value) in (list, tuple):
        return type(value), [exact(item) for item in value]
    if type(value) is float:
        return float, "nan" if math.isnan(value) else value.hex()
    if type(value) is Decimal:
        return Decimal, value.as_tuple()
    return type(value), value


# What py-amqp does


class Sink:
    """Collects what py-amqp's frame writer writes."""

    def __init__(self, frame_max: int = FRAME_MAX) -> None:
        self.written = bytearray()
        connection = SimpleNamespace(frame_max=frame_max, bytes_sent=0)
        transport = SimpleNamespace(write=self.written.extend)
        self.write_frame = frame_writer(connection, transport)


def published_by_amqp(
    frame_max: int, arguments: tuple[Any, ...], properties: dict[str, Any], body: Any
) -> bytes:
    sink = Sink(frame_max)
    message = amqp.Message(body, **properties)
    channel, *rest = arguments
    method = dumps("Bssbb", (0, *rest))
    sink.write_frame(1, channel, spec.Basic.Publish, method, message)
    return bytes(sink.written)


def method_by_amqp(channel: int, signature: tuple[int, int], fmt: str, arguments: Any) -> bytes:
    sink = Sink()
    sink.write_frame(1, channel, signature, dumps(fmt, arguments), None)
    return bytes(sink.written)


def frames(stream: bytes) -> list[tuple[int, int, bytes]]:
    found, offset = [], 0
    while offset < len(stream):
        kind, channel, size = struct.unpack_from(">BHI", stream, offset)
        offset += 7
        found.append((kind, channel, stream[offset : offset + size]))
        offset += size
        assert stream[offset] == 0xCE
        offset += 1
    return found


def events_of_amqp(stream: list[tuple[int, int, bytes]]) -> list[Any]:
    """List the methods that py-amqp makes of frames, with their contents."""
    events: list[Any] = []

    def on_method(channel: int, method: Any, payload: bytes, content: Any) -> None:
        if method == spec.Basic.Deliver:
            (tag, number, again, exchange, key), _ = loads("sLbss", payload, 4)
            told = (channel, tag, number, again, exchange, key)
            # A message without a body has a text there, of all things.
            events.append((told, exact(content.properties), content.body or b""))
        else:
            shown = content and (exact(content.properties), content.body)
            events.append((channel, method, payload, shown))

    on_frame = frame_handler(SimpleNamespace(bytes_recv=0), on_method)
    for frame in stream:
        on_frame(frame)
    return events


def events_of_hybrid(items: list[Any]) -> list[Any]:
    """List the same for what the reader returns, py-amqp having the rest."""
    events: list[Any] = []
    on_frame = frame_handler(
        SimpleNamespace(bytes_recv=0),
        lambda channel, method, payload, content: events.append(
            (channel, method, payload, content and (exact(content.properties), content.body))
        ),
    )
    for item in items:
        if type(item) is AmqpDelivery:
            told = (
                item.channel,
                item.consumer_tag,
                item.delivery_tag,
                item.redelivered,
                item.exchange,
                item.routing_key,
            )
            assert item.headers() == item.properties().get("application_headers")
            assert item.body_size == len(item.body)
            events.append((told, exact(item.properties()), item.body))
        else:
            on_frame(item)
    return events


def fed(stream: bytes, cuts: list[int], frame_max: int = 0) -> list[Any]:
    reader = AmqpReader(frame_max)
    items: list[Any] = []
    offset = 0
    for size in itertools.cycle(cuts):
        items.extend(reader.feed(stream[offset : offset + size]))
        offset += size
        if offset >= len(stream):
            break
    assert reader.pending_bytes == 0
    return items


# Streams


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=20))
@example([1])
@example([7])
@example([8])
@example([1 << 20])
def test_a_recorded_stream_says_the_same_however_it_is_cut(cuts: list[int]) -> None:
    stream = RECORDING.read_bytes()
    expected = events_of_amqp(frames(stream))
    assert events_of_hybrid(fed(stream, cuts, RECORDED_FRAME_MAX)) == expected


def test_the_recording_has_what_it_should() -> None:
    stream = RECORDING.read_bytes()
    kinds = [kind for kind, _, _ in frames(stream)]
    assert kinds.count(8) >= 2
    assert kinds.count(3) > kinds.count(2)  # bodies of several frames
    methods = {
        struct.unpack_from(">HH", payload) for kind, _, payload in frames(stream) if kind == 1
    }
    assert {spec.Basic.Deliver, spec.Basic.Return, spec.Basic.GetOk} <= methods
    deliveries = [item for item in fed(stream, [1000]) if type(item) is AmqpDelivery]
    assert {delivery.channel for delivery in deliveries} == {1, 2}
    assert any(delivery.redelivered for delivery in deliveries)
    assert any("x-death" in (delivery.headers() or {}) for delivery in deliveries)
    assert len(stream) < 100_000


def delivery_of(header: bytes, body: bytes = b"") -> bytes:
    """Write the frames of a delivery, its header given without class and size."""
    method = struct.pack(">HH", *spec.Basic.Deliver) + dumps("sLbss", ("tag", 7, True, "", "key"))
    header = struct.pack(">HHQ", 60, 0, len(body)) + header
    parts = [(1, method), (2, header)] + [(3, body)] * bool(body)
    return b"".join(struct.pack(">BHI", k, 3, len(p)) + p + b"\xce" for k, p in parts)


def test_a_delivery_with_broken_properties_can_be_rejected() -> None:
    good = struct.pack(">HB", 0x1000, 2)
    table = struct.pack(">HI", 0x2000, 3) + b"\x01aZ"
    stream = delivery_of(good) + delivery_of(table, b"body") + delivery_of(good)
    before, broken, after = AmqpReader().feed(stream)
    for read in (broken.properties, broken.headers):
        with pytest.raises(AmqpError) as caught:
            read()
        assert (caught.value.kind, caught.value.index) == ("table-type", 20)
    assert (broken.channel, broken.delivery_tag, broken.body) == (3, 7, b"body")
    assert before.properties() == after.properties() == {"delivery_mode": 2}
    assert before.headers() is None


def test_a_broken_stream_is_lost_and_what_came_before_is_not() -> None:
    reader = AmqpReader()
    good = delivery_of(struct.pack(">H", 0))
    heartbeat = struct.pack(">BHIB", 8, 0, 0, 0xCE)
    with pytest.raises(AmqpError, match="not AMQP: frame-end at byte") as caught:
        reader.feed(good + heartbeat + heartbeat[:-1] + b"\xcd" + good)
    assert caught.value.kind == "frame-end"
    assert caught.value.index == len(good) + 8 + 7
    delivery, beat = caught.value.items
    assert delivery.delivery_tag == 7
    assert beat == (8, 0, b"")
    with pytest.raises(AmqpError) as again:
        reader.feed(good)
    assert (again.value.kind, again.value.items) == ("frame-end", [])


def test_a_frame_longer_than_agreed_is_an_error() -> None:
    reader = AmqpReader(4096)
    reader.set_frame_max(8192)
    frame = struct.pack(">BHI", 1, 1, 8192 - 8) + bytes(8192 - 8) + b"\xce"
    assert len(reader.feed(frame)) == 1
    reader.set_frame_max(4096)
    with pytest.raises(AmqpError) as caught:
        reader.feed(frame[:7])
    assert caught.value.kind == "frame-size"


def test_text_of_a_method_that_is_none_costs_its_message_only() -> None:
    stream = delivery_of(struct.pack(">H", 0)).replace(b"\x03key", b"\x03\xff\xff\xff")
    (delivery,) = AmqpReader().feed(stream)
    with pytest.raises(AmqpError) as caught:
        _ = delivery.routing_key
    assert caught.value.kind == "utf-8"
    assert (delivery.delivery_tag, delivery.consumer_tag) == (7, "tag")
    assert "AmqpDelivery(channel=3, delivery_tag=7" in repr(delivery)


def test_a_delivery_holds_little_more_than_its_bytes() -> None:
    stream = delivery_of(struct.pack(">H", 0), b"x" * 500)
    (delivery,) = AmqpReader().feed(stream)
    delivery.properties()
    assert sys.getsizeof(delivery) < len(stream) + 80


# Properties and tables


texts = st.text(st.characters(codec=None, categories=None), max_size=30)
names = st.text(max_size=40) | st.sampled_from(["task", "id", "lang", "retries", "x-death"])
moments = st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(9999, 12, 31))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-(2**31) - 2, -(2**31) + 2)
    | st.integers(2**31 - 2, 2**31 + 2)
    | st.floats()
    | st.text(max_size=30)
    | st.binary(max_size=30)
    | moments
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(names, inner, max_size=5)
        | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=20,
)
tables = st.dictionaries(names, values, max_size=8)
short_texts = st.text(max_size=60) | st.binary(max_size=60)
all_properties: dict[str, Any] = {
    "content_type": short_texts,
    "content_encoding": short_texts,
    "application_headers": tables,
    "delivery_mode": st.integers(0, 255),
    "priority": st.integers(0, 255),
    "correlation_id": short_texts,
    "reply_to": short_texts,
    "expiration": short_texts,
    "message_id": short_texts,
    "timestamp": st.integers(0, 2**64 - 1),
    "type": short_texts,
    "user_id": short_texts,
    "app_id": short_texts,
    "cluster_id": short_texts,
}
properties_of_a_message = st.fixed_dictionaries(
    {}, optional={name: st.none() | value for name, value in all_properties.items()}
)


@settings(max_examples=500, deadline=None)
@given(
    properties_of_a_message,
    st.binary(max_size=300),
    st.sampled_from([0, 4096, FRAME_MAX]),
    st.text(max_size=40),
    st.text(max_size=40),
    st.booleans(),
    st.booleans(),
)
def test_a_message_is_published_as_py_amqp_does(
    properties: dict[str, Any],
    body: bytes,
    frame_max: int,
    exchange: str,
    key: str,
    mandatory: bool,
    immediate: bool,
) -> None:
    arguments = (9, exchange, key, mandatory, immediate)
    try:
        ours = encode_publish(*arguments, properties, body, frame_max)
    except AmqpError as error:
        assert error.kind == "frame-size"  # noqa: PT017
        return
    assert ours == published_by_amqp(frame_max or FRAME_MAX, arguments, properties, body)


@pytest.mark.parametrize("frame_max", [600, 4096])
@pytest.mark.parametrize("extra", [-60, -49, -41, -40, -1, 0, 1, 5000])
def test_bodies_are_cut_where_py_amqp_cuts_them(frame_max: int, extra: int) -> None:
    arguments = (1, "", "key", False, False)
    for times in (1, 2, 3):
        body = bytes(times * (frame_max - 8) + extra)
        ours = encode_publish(*arguments, {"delivery_mode": 2}, body, frame_max)
        assert ours == published_by_amqp(frame_max, arguments, {"delivery_mode": 2}, body)


@pytest.mark.parametrize(
    "properties",
    [{}, {"content_encoding": "utf-8"}, {"content_encoding": "UTF-8", "content_type": "text"}],
)
def test_text_is_published_as_py_amqp_does(properties: dict[str, Any]) -> None:
    arguments = (1, None, b"key", True, True)
    before = dict(properties)
    ours = encode_publish(*arguments, properties, "naïve \u2603", FRAME_MAX)
    assert properties == before
    assert ours == published_by_amqp(FRAME_MAX, arguments, properties, "naïve \u2603")


@settings(max_examples=500, deadline=None)
@given(properties_of_a_message, st.binary(max_size=5))
def test_properties_decode_alike(properties: dict[str, Any], rest: bytes) -> None:
    header = bytes(12) + amqp.Message("", **properties)._serialize_properties() + rest
    ours = outcome(header)
    theirs, _ = decode_properties_basic(header, 12) if ours != "utf-8" else ("utf-8", None)
    assert ours == (theirs if theirs == "utf-8" else exact(theirs))


def outcome(header: bytes) -> Any:
    try:
        return exact(decode_properties(header))
    except AmqpError as error:
        return error.kind


def raw_values() -> st.SearchStrategy[bytes]:
    """Field values of every type as they are on the wire, which py-amqp mostly does not write."""

    def packed(letter: str, fmt: str) -> st.SearchStrategy[bytes]:
        size = struct.calcsize(fmt)
        return st.binary(min_size=size, max_size=size).map(lambda data: letter.encode() + data)

    def framed(letter: str, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        return content.map(lambda data: letter.encode() + struct.pack(">I", len(data)) + data)

    numbers = "bBUuIiL" if PY_AMQP < (5, 4) else "bBsUuIilL"  # others were other types then
    sizes = dict(zip("bBsUuIilL", "bBhhHiIqq"))
    leaves = (
        st.one_of([packed(letter, f">{sizes[letter]}") for letter in numbers])
        | packed("f", ">f")
        | packed("d", ">d")
        | packed("D", ">Bi")
        | packed("t", ">B")
        | st.integers(0, 2**38).map(lambda moment: b"T" + struct.pack(">Q", moment))
        | st.just(b"V")
        | framed("S", st.binary(max_size=20))
        | framed("S", texts.map(lambda text: text.encode(errors="surrogatepass")))
        | framed("x", st.binary(max_size=20))
    )
    return st.recursive(
        leaves,
        lambda inner: (
            framed("A", st.lists(inner, max_size=4).map(b"".join)) | framed("F", raw_fields(inner))
        ),
        max_leaves=15,
    )


def raw_fields(value: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    name = st.binary(max_size=10) | names.map(str.encode).filter(lambda text: len(text) < 256)
    field = st.tuples(name, value).map(lambda pair: bytes([len(pair[0])]) + pair[0] + pair[1])
    return st.lists(field, max_size=6).map(b"".join)


raw_headers = raw_fields(raw_values()).map(
    lambda fields: bytes(12) + struct.pack(">HI", 0x3000, len(fields)) + fields + b"\x02"
)


@settings(max_examples=500, deadline=None)
@given(raw_headers)
def test_fields_of_every_type_decode_alike(header: bytes) -> None:
    ours = outcome(header)
    try:
        theirs = exact(decode_properties_basic(header, 12)[0])
    except (ValueError, OverflowError):
        assert ours == "range"  # a time that no datetime can hold
    else:
        assert ours == theirs


@settings(max_examples=500, deadline=None)
@given(raw_headers, st.data())
def test_mutated_properties_decode_alike_or_not_at_all(header: bytes, data: st.DataObject) -> None:
    mutated = bytearray(header)
    for _ in range(data.draw(st.integers(0, 3))):
        index = data.draw(st.integers(12, len(mutated) - 1))
        mutated[index] = data.draw(st.integers(0, 255))
    cut = bytes(mutated[: data.draw(st.integers(12, len(mutated)))])
    ours = outcome(cut)
    if isinstance(ours, str):
        # py-amqp reads on past an end, and ignores flags.
        assert ours in {"truncated", "flags", "table-type", "depth", "utf-8", "range"}
    elif PY_AMQP >= (5, 4):
        assert ours == exact(decode_properties_basic(cut, 12)[0])


def test_tables_nest_to_a_limit() -> None:
    def nested(depth: int) -> bytes:
        table: dict[str, Any] = {}
        for _ in range(depth - 1):
            table = {"a": table}
        return bytes(12) + amqp.Message("", application_headers=table)._serialize_properties()

    assert decode_properties(nested(200)) == decode_properties_basic(nested(200), 12)[0]
    assert outcome(nested(201)) == "depth"


# What is left to py-amqp


class Mode(enum.IntEnum):
    PERSISTENT = 2


class Name(str):
    __slots__ = ()


def cycle() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


AWARE = datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    ("properties", "kind"),
    [
        ({"delivery_mode": Mode.PERSISTENT}, "type"),
        ({"delivery_mode": True}, "type"),
        ({"delivery_mode": 256}, "range"),
        ({"priority": -1}, "range"),
        ({"timestamp": 2**64}, "range"),
        ({"timestamp": 1.5}, "type"),
        ({"timestamp": AWARE}, "type"),
        ({"reply_to": 7}, "type"),
        ({"reply_to": Name("q")}, "type"),
        ({"reply_to": "\ud800"}, "utf-8"),
        ({"reply_to": "x" * 256}, "length"),
        ({"application_headers": []}, "type"),
        ({"application_headers": OrderedDict(a=1)}, "type"),
        ({"application_headers": {1: 2}}, "type"),
        ({"application_headers": {"x" * 256: 2}}, "length"),
        ({"application_headers": {"a": object()}}, "type"),
        ({"application_headers": {"a": Mode.PERSISTENT}}, "type"),
        ({"application_headers": {"a": [Name("q")]}}, "type"),
        ({"application_headers": {"a": Decimal("1.5")}}, "type"),
        ({"application_headers": {"a": "\ud800"}}, "type"),
        ({"application_headers": {"a": 2**63}}, "range"),
        ({"application_headers": {"a": AWARE}}, "range"),
        ({"application_headers": {"a": datetime.datetime(1969, 1, 1)}}, "range"),
        ({"application_headers": {"a": cycle()}}, "depth"),
        ({"application_headers": {"a": "x" * 5000}}, "frame-size"),
    ],
)
def test_what_only_py_amqp_knows_is_left_to_it(properties: dict[str, Any], kind: str) -> None:
    with pytest.raises(AmqpError) as caught:
        encode_publish(1, "", "key", False, False, properties, b"", 4096)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("properties", "body"),
    [
        ({}, bytearray(b"a")),
        ({}, None),
        ({}, "\ud800"),
        ({"content_encoding": "latin-1"}, "text"),
        ({"content_encoding": None}, "text"),
    ],
)
def test_bodies_that_only_py_amqp_knows_are_left_to_it(
    properties: dict[str, Any], body: Any
) -> None:
    with pytest.raises(AmqpError):
        encode_publish(1, "", "key", False, False, properties, body, 4096)


# Methods


numbers16, numbers64 = st.integers(0, 2**16 - 1), st.integers(0, 2**64 - 1)


@given(numbers16, numbers64, st.booleans(), st.booleans())
def test_messages_are_settled_as_py_amqp_does(
    channel: int, tag: int, first: bool, second: bool
) -> None:
    acked = method_by_amqp(channel, spec.Basic.Ack, "Lb", (tag, first))
    assert encode_ack(channel, tag, first) == acked
    assert encode_acks(channel, [(tag, first)] * 2) == acked * 2
    rejected = method_by_amqp(channel, spec.Basic.Reject, "Lb", (tag, first))
    assert encode_reject(channel, tag, first) == rejected
    nacked = method_by_amqp(channel, spec.Basic.Nack, "Lbb", (tag, first, second))
    assert encode_nack(channel, tag, first, second) == nacked


@given(numbers16, st.integers(0, 2**32 - 1), numbers16, st.booleans())
def test_qos_is_set_as_py_amqp_does(channel: int, size: int, count: int, a_global: bool) -> None:
    expected = method_by_amqp(channel, spec.Basic.Qos, "lBb", (size, count, a_global))
    assert encode_qos(channel, size, count, a_global) == expected


# Acknowledgements in groups; `rust/core/tests/amqp_window.rs` has the model


def test_many_deliveries_are_settled_at_once() -> None:
    window = AckWindow()
    assert all(window.delivered(tag) for tag in range(1, 11))
    assert not window.delivered(3)
    for tag in (5, 2, 1, 3, 8):
        assert window.settle(tag)
    assert window.forget(4)
    assert len(window) == 4
    assert window.flush() == [(5, True), (8, False)]
    assert window.flush() == []
    assert not window.settle(5)
    assert not window.forget(4)


def test_one_delivery_is_settled_alone() -> None:
    window = AckWindow()
    window.delivered(1)
    window.settle(1)
    assert window.flush() == [(1, False)]


def test_a_delivery_that_is_held_is_not_settled_with_those_after_it() -> None:
    window = AckWindow()
    for tag in range(1, 1001):
        window.delivered(tag)
    for tag in range(2, 1001):
        window.settle(tag)
    assert window.flush() == [(tag, False) for tag in range(2, 1001)]
    assert len(window) == 1
