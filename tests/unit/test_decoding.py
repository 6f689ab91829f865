"""Messages decode to what kombu decodes them to, whatever is in them.

Every test here decodes the same bytes twice, with kombu and with hybrid, and compares values,
types and errors.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import sys
import time
import uuid
from queue import Empty
from types import SimpleNamespace
from typing import Any, Callable

import kombu
import pytest
from celery import Celery
from celery.worker import state as worker_state
from celery.worker import strategy as celery_strategy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kombu.serialization import registry
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps as kombu_dumps
from kombu.utils.json import loads as kombu_loads

from hybrid import _rust
from hybrid.transports.message import Message, decode_envelope
from hybrid.transports.redis import channel as hybrid_redis
from hybrid.worker.consuming import strategy

ALL_CONTENT = set(registry._decoders)


def outcome(function: Callable[[], Any]) -> Any:
    """What ``function`` returns or raises, in a form that compares by value and by type."""
    try:
        return "value", exact(function())
    except Exception as error:
        return "error", type(error), str(error)


def exact(value: Any) -> Any:
    if type(value) is dict:
        return dict, [(exact(k), exact(v)) for k, v in value.items()]
    if type(value) in (list, tuple):
        return type(value), [exact(item) for item in value]
    if type(value) is float:
        return float, "nan" if math.isnan(value) else value.hex()
    return type(value), value


def loads(data: Any) -> Any:
    """As ``Message`` uses it: kombu's decoder wherever Rust says that it does not know."""
    try:
        return _rust.loads(data)
    except _rust.DecodeError:
        return kombu_loads(data)


def rust_takes(data: str | bytes) -> bool:
    try:
        _rust.loads(data)
    except _rust.DecodeError:
        return False
    return True


def assert_loads_alike(data: str | bytes) -> None:
    try:
        ours = exact(_rust.loads(data))
    except _rust.DecodeError:
        return  # the caller then uses kombu's decoder, which is equal to itself
    assert outcome(lambda: kombu_loads(data)) == ("value", ours)


# JSON text


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**40), max_value=10**40)
    | st.floats()
    | st.text(st.characters(codec=None, categories=None))
    | st.sampled_from(["__type__", "__value__", "\ufeff", "\x00", "\x7f", "\ud800", "\U0001f600"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
json_texts = st.builds(
    lambda value, ascii_, space, indent: json.dumps(
        value, ensure_ascii=ascii_, separators=(f",{space}", f":{space}"), indent=indent
    ),
    json_values,
    st.booleans(),
    st.sampled_from(["", " ", "\t\n\r "]),
    st.sampled_from([None, 1]),
)
number_texts = st.from_regex(r"-?[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{0,4})?", fullmatch=True)
json_soup = st.text(
    alphabet='[]{},:"\\/ubfnrt0123456789.eE+-NaIfity_pluse \n\x00\x1f\x7f\ufeffé', max_size=30
)


@settings(max_examples=500)
@given(json_texts)
def test_text_that_json_writes_decodes_alike(text: str) -> None:
    assert_loads_alike(text)
    try:
        assert_loads_alike(text.encode())
    except UnicodeEncodeError:
        assert not rust_takes(text)


@settings(max_examples=500)
@given(number_texts)
@example("1E400")
@example("-1e400")
@example("-0")
@example("-0.0")
@example("-0e0")
@example("5e-324")
@example("2.4703282292062327e-324")
@example("2.4703282292062328e-324")
@example("1.7976931348623159e308")
@example("9007199254740993.0")
@example("0.1e-400")
@example("9223372036854775808")
@example("-9223372036854775809")
@example("00")
@example("1.")
@example(".5")
@example("+1")
@example("1e")
def test_numbers_decode_alike(text: str) -> None:
    assert_loads_alike(text)
    assert_loads_alike(f"[{text}, {text}]")
    assert_loads_alike(f'{{"headers": {{"n": {text}}}}}')
    assert_envelopes_alike(
        f'{{"headers": {{"n": {text}}}, "properties": {{"delivery_tag": {text}}}}}'
    )


@settings(max_examples=1000)
@given(json_soup)
def test_almost_json_decodes_alike(text: str) -> None:
    assert_loads_alike(text)
    assert_envelopes_alike(f'{{"headers": {{"x": {text}}}, "properties": {{"delivery_tag": 1}}}}')


@settings(max_examples=300)
@given(
    st.binary(max_size=40) | json_texts.map(lambda t: t.encode(errors="surrogatepass")), st.data()
)
def test_mutated_bytes_decode_alike(data: bytes, draw: st.DataObject) -> None:
    mutated = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 3))):
        if mutated:
            mutated[draw.draw(st.integers(0, len(mutated) - 1))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(mutated)))
    assert_loads_alike(bytes(mutated))
    assert_loads_alike(bytes(mutated[:cut]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "NaN",
        "-NaN",
        "Infinity",
        "-Infinity",
        "[NaN]",
        "\ufeff[]",
        "[]\x00",
        "[] []",
        "[1,]",
        '{"a": 1,}',
        "{1: 2}",
        "'a'",
        '"\x1f"',
        '"\x7f"',
        '"\\x41"',
        '"\\ud800"',
        '"\\ud800\\u0041"',
        '"\\udc00\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\uD83D\\uDE00"',
        '"\\u+123"',
        '"\\u12"',
        '"\\/"',
        '"\u2028"',
        "\u00a0[]",
        "\x0b[]",
        "\x0c[]",
        '{"a": 1, "b": 2, "a": 3}',
        '{"": {"": []}}',
        "nul",
        "nulll",
        "True",
        "[" * 10_000 + "]" * 10_000,
        "[" * 10_000,
        '{"a":' * 10_000,
        "[" * 199 + "]" * 199,
        "[" * 201 + "]" * 201,
        "1" * 639,
        "1" * 640,
        "1" * 4300,
        "1" * 4301,
        "0." + "1" * 5000,
        "1" * 5000 + ".0",
        '{"__type__": "date", "__value__": "2024-01-01"}',
        '{"\\u005f_type__": "bytes", "__value__": "x"}',
        '{"__type__": "unknown", "__value__": 1}',
        '{"__type__": "date", "__value__": "never"}',
        '{"__type__": "date"}',
    ],
)
def test_corner_cases_decode_alike(text: str) -> None:
    assert_loads_alike(text)
    assert outcome(lambda: loads(text)) == outcome(lambda: kombu_loads(text))
    # Behind the envelope's prefix, the same text reaches the decoder of headers.
    assert_envelopes_alike(f'{{"headers": {{"x": {text}}}, "properties": {{"delivery_tag": 1}}}}')
    assert_envelopes_alike(text)


def test_an_integer_is_refused_where_python_is_configured_to_refuse_it() -> None:
    text = "1" * 641
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert outcome(lambda: loads(text)) == outcome(lambda: kombu_loads(text))
        assert outcome(lambda: loads(text))[1] is ValueError
    finally:
        sys.set_int_max_str_digits(before)


@pytest.mark.parametrize("data", [bytearray(b"[1]"), memoryview(b"[1]"), None, 1, "\ud800"])
def test_other_inputs_are_left_to_python(data: Any) -> None:
    with pytest.raises(_rust.DecodeError) as caught:
        _rust.loads(data)
    assert caught.value.kind == "input"
    assert outcome(lambda: loads(data)) == outcome(lambda: kombu_loads(data))


def test_a_decode_error_says_what_and_where() -> None:
    with pytest.raises(_rust.DecodeError) as caught:
        _rust.loads(b'["\xff"]')
    assert (caught.value.kind, caught.value.index) == ("utf-8", 2)
    assert str(caught.value) == "not decoded: utf-8 at byte 2"
    assert isinstance(caught.value, ValueError)


def test_kombus_extensions_decode_alike() -> None:
    values = [
        datetime.datetime(2024, 1, 2, 3, 4, 5, 6, datetime.timezone.utc),
        datetime.date(2024, 1, 2),
        datetime.time(3, 4),
        uuid.UUID(int=7),
        decimal.Decimal("1.10"),
        b"text",
        b"\xff\xfe",
    ]
    text = kombu_dumps([values, {"k": values}])
    assert not rust_takes(text)
    assert exact(loads(text)) == exact([values, {"k": values}])


# Envelopes


@pytest.fixture(scope="module")
def channel() -> Any:
    with kombu.Connection("memory://") as connection:
        yield connection.channel()


def decoded(message_class: type, payload: Callable[[], Any], channel: Any, accept: Any) -> Any:
    def build() -> dict[str, Any]:
        message = message_class(payload(), channel=channel)
        message.accept = accept
        fields = {
            name: getattr(message, name)
            for name in (
                "body",
                "content_type",
                "content_encoding",
                "delivery_tag",
                "delivery_info",
                "headers",
                "properties",
                "accept",
                "_state",
                "acknowledged",
                "_raw",
            )
        }
        fields["errors"] = [repr(error[1]) for error in message.errors]
        fields["payload"] = [outcome(lambda: message.payload), outcome(message.decode)]
        fields["serializable"] = outcome(message.serializable)
        return fields

    return outcome(build)


_channel = kombu.Connection("memory://").channel()


def assert_envelopes_alike(data: str | bytes, accept: Any = None) -> None:
    stock = decoded(virtual.Message, lambda: kombu_loads(bytes_to_str(data)), _channel, accept)
    ours = decoded(Message, lambda: decode_envelope(data), _channel, accept)
    assert ours == stock


def app(**conf: Any) -> Celery:
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(conf)
    return app


def sent(protocol: int = 2, args: Any = (1, 2), kwargs: Any = None, **options: Any) -> str:
    """The envelope that a stock producer puts on Redis."""
    envelopes: list[Any] = []
    body_encoding = options.pop("body_encoding", "base64")
    with kombu.Connection("memory://") as connection:
        channel = connection.channel()
        channel.body_encoding = body_encoding
        channel._put = lambda queue, message, **_: envelopes.append(message)
        producer = kombu.Producer(channel, serializer="json")
        create = {1: app().amqp.as_task_v1, 2: app().amqp.as_task_v2}[protocol]
        task = create(
            "b0c6b0a6-3f7e", "proj.add", args, kwargs or {"retry": True}, **options.pop("task", {})
        )
        producer.publish(
            task.body,
            exchange="",
            routing_key="celery",
            headers={**task.headers, **options.pop("headers", {})},
            **{**task.properties, **options},
        )
    return kombu_dumps(envelopes[0])


#: Stock producers put binary bodies in base64 only.
AS_BASE64 = [
    {"serializer": serializer, "compression": compression}
    for serializer in ("json", "yaml", "pickle", "msgpack")
    for compression in (None, "zlib", "gzip", "bzip2")
]
AS_TEXT = [
    {"serializer": serializer, "body_encoding": body_encoding}
    for serializer in ("json", "yaml")
    for body_encoding in ("utf-8", "UTF-8", "", None)
]


@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize("options", [*AS_BASE64, *AS_TEXT], ids=repr)
def test_what_celery_sends_decodes_alike(protocol: int, options: dict[str, Any]) -> None:
    envelope = sent(protocol, **options)
    for accept in (ALL_CONTENT, {"application/json"}, set(), None):
        assert_envelopes_alike(envelope, accept)
        assert_envelopes_alike(envelope.encode(), accept)


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 9},
        {"priority": 0},
        {"expiration": "60"},
        {"reply_to": "queue", "correlation_id": "id"},
        {"headers": {"custom": {"nested": [1, 2.5, None, "ü"]}}},
        {"headers": {"compression": None}},
        {"headers": {"compression": "rot13"}},
        {"headers": {"args": ["in", "headers"]}},
        {"task": {"eta": "2030-01-01T00:00:00+00:00"}},
        {"task": {"countdown": 10, "expires": 60, "time_limit": 5.5, "soft_time_limit": 3}},
        {"task": {"group_id": "g", "group_index": 3, "root_id": "r", "parent_id": "p"}},
        {"task": {"chain": [{"task": "x"}], "callbacks": [{"task": "y"}], "chord": {"task": "z"}}},
        {"task": {"stamped_headers": ["s"], "s": 1}},
        {"args": ["ü", "\U0001f600", "\x00", '"quoted"', "back\\slash", "a/b"]},
        {"args": [{"deep": [[[[{}]]]]}], "kwargs": {"": None, "self": 1}},
        {"args": [float("nan"), float("inf"), 1e400]},
        {"args": [10**30, -(10**700)]},
        {"args": [b"bytes", b"\xff"]},
    ],
)
def test_every_option_decodes_alike(options: dict[str, Any]) -> None:
    assert_envelopes_alike(sent(**options))


def test_the_hybrid_of_both_protocols_decodes_alike() -> None:
    envelope = json.loads(sent(1))
    envelope["headers"] = json.loads(sent(2))["headers"]
    assert_envelopes_alike(json.dumps(envelope))


def test_rust_decodes_what_celery_sends() -> None:
    for envelope in (
        sent(1),
        sent(2),
        sent(2, body_encoding="utf-8"),
        sent(2, serializer="pickle"),
    ):
        assert type(decode_envelope(envelope)) is _rust.Delivery
    message = Message(decode_envelope(sent(2)), channel=_channel)
    assert message.payload == [
        [1, 2],
        {"retry": True},
        dict.fromkeys(["callbacks", "errbacks", "chain", "chord"]),
    ]
    assert "_raw" not in vars(message)  # not decoded a second time, unless asked for


VALUES = [
    None, True, 0, 7, -1.5, 10**30, "", "x", "base64", "utf-8", "application/json", "\x00",
    "\ud800", [], ["x"], {}, {"x": 1}, {"delivery_tag": 2}, {"compression": "zlib"},
    {"body_encoding": 5, "delivery_tag": 1}, {"body_encoding": [], "delivery_tag": 1},
    {"body_encoding": "BASE64", "delivery_tag": 1}, {"body_encoding": "rot13", "delivery_tag": 1},
    {"body_encoding": "base64", "delivery_tag": None, "delivery_info": [1]},
    {"__type__": "bytes", "__value__": "e30="},
]  # fmt: skip
FIELDS = ["body", "content-type", "content-encoding", "headers", "properties"]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_wrong_types_decode_alike(field: str, value: Any) -> None:
    envelope = json.loads(sent())
    assert_envelopes_alike(json.dumps({**envelope, field: value}))
    envelope.pop(field)
    assert_envelopes_alike(json.dumps(envelope))


@pytest.mark.parametrize("part", ["headers", "properties"])
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_wrong_types_in_every_header_decode_alike(part: str, value: Any) -> None:
    envelope = json.loads(sent(headers={"compression": None}))
    for name in envelope[part]:
        assert_envelopes_alike(json.dumps({**envelope, part: {**envelope[part], name: value}}))


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            field: st.sampled_from(VALUES) | json_values for field in [*FIELDS, "redelivered"]
        },
    ),
    st.lists(st.sampled_from(FIELDS), max_size=2),
)
def test_generated_envelopes_decode_alike(fields: dict[str, Any], repeated: list[str]) -> None:
    text = json.dumps({**json.loads(sent()), **fields})
    for field in repeated:  # of several fields with one name the last counts
        text = text[:-1] + f', "{field}": {json.dumps(fields.get(field))}}}'
    assert_envelopes_alike(text)


@settings(max_examples=300)
@given(st.data())
def test_damaged_envelopes_decode_alike(draw: st.DataObject) -> None:
    data = bytearray(ENVELOPE)
    for _ in range(draw.draw(st.integers(0, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.just(len(data)) | st.integers(0, len(data)))
    assert_envelopes_alike(bytes(data[:cut]))


ENVELOPE = sent().encode()


@pytest.mark.parametrize(
    "body",
    [
        "", "=", "====", "A", "AA", "AAA", "AAAA", "AA==", "AAA=", "AA=", "AB==", "AAAA=",
        "W10=\n", " W10=", "W1!0=",
        "W10=W10=", "AA==AA==", "-_-_", "W1\\u0030=", "W\\/==", "\u00e9", "W10\x7f=",
    ],
)  # fmt: skip
def test_unusual_base64_decodes_alike(body: str) -> None:
    text = ENVELOPE.decode()
    start = text.index('"body": "') + len('"body": "')
    assert_envelopes_alike(text[:start] + body + text[text.index('"', start) :])


def test_a_body_of_50_megabytes_decodes_alike() -> None:
    body = json.dumps([["x" * 50_000_000], {}, {}])
    envelope = json.loads(ENVELOPE)
    envelope["body"] = base64.b64encode(body.encode()).decode()
    delivery = decode_envelope(json.dumps(envelope))
    assert type(delivery) is _rust.Delivery
    assert delivery.body == body.encode()
    assert Message(delivery, channel=_channel).payload == json.loads(body)


def test_a_replaced_json_decoder_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._decoders, "application/json", lambda data: "replaced")
    assert_envelopes_alike(sent())
    assert Message(decode_envelope(sent()), channel=_channel).payload == "replaced"


# The Redis channel


def redis_channel(channel_class: type, item: bytes) -> tuple[Any, list[Any]]:
    delivered: list[Any] = []
    channel = object.__new__(channel_class)
    client = SimpleNamespace(
        connection=None,
        parse_response=lambda *_, **__: (b"celery\x06\x163", item),
        rpop=lambda key: item,
    )
    channel.__dict__.update(
        client=client,
        connection=SimpleNamespace(
            _deliver=lambda payload, queue: delivered.append(
                (channel.Message(payload, channel=channel), queue)
            ),
            client=SimpleNamespace(),
        ),
        connection_errors=(OSError,),
        _queue_cycle=SimpleNamespace(rotate=lambda queue: None),
        _expires={},
        closed=True,
    )
    channel._create_client = lambda *_, **__: client
    return channel, delivered


@pytest.mark.parametrize("item", [b"[", b"\xff"], ids=repr)
def test_an_entry_that_is_no_message_is_logged_and_dropped(
    item: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    channel, delivered = redis_channel(hybrid_redis.Channel, item)
    with pytest.raises(Empty):  # what kombu's poll loop takes for a queue without a message
        channel._brpop_read()
    assert delivered == []
    assert channel._in_poll is None
    assert "Dropped an entry of a queue" in caplog.text


@pytest.mark.parametrize("item", [ENVELOPE, sent(args=[b"x"]).encode()], ids=["plain", "bytes"])
def test_brpop_delivers_what_kombu_delivers(item: bytes) -> None:
    def deliver(channel_class: type) -> Any:
        channel, delivered = redis_channel(channel_class, item)
        channel._brpop_read()
        [(message, queue)] = delivered
        assert channel._in_poll is None
        return {"queue": queue, "payload": message.payload, "raw": message._raw}

    assert outcome(lambda: deliver(hybrid_redis.Channel)) == outcome(
        lambda: deliver(kombu_redis.Channel)
    )


def test_brpop_and_get_decode_in_rust() -> None:
    # Fails when a release of kombu decodes elsewhere, so that the seam has to be found anew.
    channel, delivered = redis_channel(hybrid_redis.Channel, ENVELOPE)
    channel._brpop_read()
    assert type(delivered[0][0]._delivery) is _rust.Delivery
    assert type(channel._get("celery")) is _rust.Delivery


def test_a_channel_with_a_body_codec_of_its_own_decodes_in_kombu() -> None:
    class Codec:
        def decode(self, body: str) -> bytes:
            return b'"own"'

    class Custom(hybrid_redis.Channel):
        codecs = {"base64": Codec()}  # noqa: RUF012

    assert not hybrid_redis._has_kombus_body_codec(object.__new__(Custom))
    assert hybrid_redis._has_kombus_body_codec(object.__new__(hybrid_redis.Channel))


# The strategy: what a task and its request see is what they see in stock Celery


def noop() -> None:
    pass


class Pool:
    """Runs a job at once."""

    def apply_async(self, target: Any, args: Any, **options: Any) -> Any:
        options["accept_callback"](1, time.monotonic())
        options["callback"](target(*args))
        return self  # what a weak reference is made to

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        raise NotImplementedError("no job of these tests is terminated")


def consumer_of(requests: list[Any], later: list[Any]) -> Any:
    return SimpleNamespace(
        hostname="here",
        connection_errors=(),
        event_dispatcher=None,
        timer=SimpleNamespace(call_at=lambda *args, **_: later.append(args)),
        apply_eta_task=None,
        disable_rate_limits=True,
        task_buckets={},
        on_task_request=requests.append,
        _limit_task=None,
        _limit_post_eta=None,
        pool=Pool(),
        controller=SimpleNamespace(state=worker_state),
        qos=SimpleNamespace(increment_eventually=lambda: None),
    )


def tasks_app(seen: list[Any], **conf: Any) -> Celery:
    proj = app(result_backend="cache+memory://", **conf)

    @proj.task(name="proj.add", bind=True, shared=False)
    def add(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(("called", exact(list(args)), exact(kwargs), exact(self.request.chain)))
        for value in (*args, *kwargs.values()):
            if isinstance(value, list):
                value.append("mutated")
        self.request.args.append("mutated")
        self.request.kwargs["mutated"] = True
        return "done"

    return proj


def run(start: Any, message_class: type, payload: Any) -> Any:
    """All that is visible of one message handled by the strategy that ``start`` makes."""
    seen: list[Any] = []
    requests: list[Any] = []
    later: list[Any] = []
    proj = tasks_app(seen, accept_content=["json", "pickle"])
    task = proj.tasks["proj.add"]
    handler = start(task, proj, consumer_of(requests, later))
    message = message_class(payload, channel=_channel)
    message.accept = {"application/json", "application/x-python-serialize"}
    body = None if "task" in message.headers else message.payload

    def is_handled_here() -> bool:
        try:
            return isinstance(handler, strategy.Strategy) and handler.receive(message, [])
        except strategy.ReadingError:
            return False  # as the consumer does: perhaps Celery's own can read it

    def handle() -> Any:
        if not is_handled_here():
            handler(message, body, lambda *_: None, lambda *_: seen.append("reject"), [])
        [request] = requests or [entry[2][0] for entry in later]
        before = exact([request.args, request.kwargs, request.argsrepr, request.kwargsrepr])
        context = request._context
        shown = [
            request.info(),
            request.errbacks,
            request.chord,
            context.chain,
            request.utc,
            request.eta,
        ]
        request.execute_using_pool(Pool())
        after = [
            request.args,
            request.kwargs,
            request.info()["args"],
            request.request_dict,
            message.payload[2] if body is None else message.payload,
            request.acknowledged,
        ]
        for entry in (shown[0], after[3]):
            entry.pop("time_start", None)
            entry.pop("properties", None)
        return before, repr(shown), repr(after)

    proj.set_current()  # the tracer asks for it, as in a worker
    return outcome(handle), seen


MUTABLE = {"args": [[1], {"a": [2]}], "kwargs": {"x": [3], "y": {}}}


@pytest.mark.parametrize(
    "options",
    [
        {},
        MUTABLE,
        {**MUTABLE, "protocol": 1},
        {**MUTABLE, "serializer": "pickle"},
        {**MUTABLE, "compression": "zlib"},
        {**MUTABLE, "body_encoding": "utf-8"},
        {"args": [b"extension"]},
        {"args": ["args"]},
        {"task": {"eta": "2030-01-01T00:00:00+00:00"}},
        {"task": {"callbacks": [], "errbacks": [], "chain": []}},
        {"headers": {"args": 1}},
        {"headers": {"shadow": "other"}},
    ],
    ids=repr,
)
def test_a_task_and_its_request_see_what_they_see_in_celery(options: dict[str, Any]) -> None:
    envelope = sent(**{"protocol": 2, **options})
    stock = run(celery_strategy.default, virtual.Message, kombu_loads(envelope))
    ours = run(strategy.default, Message, decode_envelope(envelope))
    assert ours == stock
    assert ours[0][0] == "value"
    assert "called" in {entry[0] for entry in ours[1]}


@pytest.mark.parametrize(
    "body",
    [
        "null", "[]", "[1]", "[[], {}]", "[[], {}, {}, {}]", '["args", {}, {}]', "[[], [], {}]",
        "[null, null, null]", '"abc"', "{}", '{"args": [1], "kwargs": {"b": [2]}}', "[", "NaN", "1",
        '{"args": [], "kwargs": []}', '{"a": 1, "b": 2, "c": 3}', '[[1], {}, {"chain": null}]',
    ],
)  # fmt: skip
def test_a_body_of_any_shape_is_handled_as_in_celery(body: str) -> None:
    envelope = json.loads(sent())
    envelope["body"] = base64.b64encode(body.encode()).decode()
    text = json.dumps(envelope)
    stock = run(celery_strategy.default, virtual.Message, kombu_loads(text))
    ours = run(strategy.default, Message, decode_envelope(text))
    assert ours == stock


def test_the_body_is_not_decoded_through_kombu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("decoded by kombu")

    monkeypatch.setattr("kombu.message.loads", refuse)
    result, seen = run(strategy.default, Message, decode_envelope(sent(**MUTABLE)))
    assert result[0] == "value", result
    assert "called" in {entry[0] for entry in seen}


def test_a_task_with_a_request_or_strategy_of_its_own_is_left_to_celery() -> None:
    proj = app()

    def own_strategy(task: Any, app: Any, consumer: Any) -> str:
        return "own"

    plain = proj.task(name="plain", shared=False)(noop)
    request = proj.task(name="request", shared=False, Request="celery.worker.request:Context")(noop)
    own = proj.task(name="own", shared=False, Strategy=staticmethod(own_strategy))(noop)

    assert strategy.reasons(plain, proj) == []
    assert strategy.reasons(request, proj) == [
        "it has a request class of its own, celery.worker.request:Context"
    ]
    [reason] = strategy.reasons(own, proj)
    assert reason.startswith("it has a strategy of its own, ")
    assert strategy.default(own, proj, consumer_of([], [])) == "own"


def test_an_app_that_does_not_accept_json_is_left_to_celery() -> None:
    proj = app(accept_content=["pickle"])
    plain = proj.task(name="plain", shared=False)(noop)
    assert strategy.reasons(plain, proj) == ["the setting accept_content does not contain json"]
