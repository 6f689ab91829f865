"""Values and arguments are written as Celery and kombu write them."""

from __future__ import annotations

import json
import multiprocessing
import uuid
from collections import OrderedDict
from enum import IntEnum
from typing import Any

import pytest
from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport.virtual.base import Base64
from kombu.utils.json import dumps as kombu_dumps

from hybrid import _rust, identifiers
from hybrid.encoding import dumps
from hybrid.worker.publishing.message import shown

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=5)
    ),
    max_leaves=20,
)


class Colour(IntEnum):
    RED = 1


@given(PLAIN)
def test_plain_values_are_written_as_by_python(value: Any) -> None:
    assert _rust.dumps(value) == json.dumps(value)


@given(st.integers(-(2**53), 2**53), st.integers(0, 30), st.integers(-12, 30))
def test_floats_are_written_as_by_python(whole: int, halvings: int, tens: int) -> None:
    # Two shortest texts can be equally near to a number with few digits behind the binary point.
    exact, scaled = whole / 2**halvings, whole * 10.0**tens
    assert _rust.dumps([exact, scaled]) == json.dumps([exact, scaled])


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-5, -9.9999e-5, 1e-4, 1e16, 1e100, 5e-324])
def test_exponents_are_written_as_by_python(value: float) -> None:
    assert _rust.dumps(value) == json.dumps(value)


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        float("nan"),
        float("inf"),
        "\ud800",
        {1: 2},
        {"key": {"\udfff": 1}},
        Colour.RED,
        OrderedDict(a=1),
        b"bytes",
        uuid.UUID(int=1),
        [set()],
    ],
    ids=repr,
)
def test_other_values_are_left_to_python(value: Any) -> None:
    assert _rust.dumps(value) is None
    try:
        expected: Any = kombu_dumps(value)
    except Exception as exc:
        with pytest.raises(type(exc)):
            dumps(value)
    else:
        assert dumps(value) == expected


@pytest.mark.parametrize("special", ['"', "\\", "\n", "\x7f", "é", "\U0001f600"], ids=ascii)
def test_a_character_is_escaped_wherever_it_stands(special: str) -> None:
    for before in range(70):
        for after in (0, 1, 40):
            text = "a" * before + special + "b" * after + special
            assert _rust.dumps(text) == json.dumps(text)


@given(st.text() | st.binary())
def test_bodies_travel_as_kombu_sends_them(body: str | bytes) -> None:
    assert _rust.encode_base64(body) == Base64().encode(body)


@pytest.mark.parametrize("body", [None, 1, bytearray(b"1"), "\ud800"], ids=repr)
def test_other_bodies_are_left_to_kombu(body: Any) -> None:
    assert _rust.encode_base64(body) is None


def test_deep_values_are_left_to_python() -> None:
    value: Any = 1
    for _ in range(201):
        value = [value]
    assert _rust.dumps(value[0]) == json.dumps(value[0])
    assert _rust.dumps(value) is None
    value = []
    value.append(value)
    assert _rust.dumps(value) is None


@given(
    st.lists(PLAIN, max_size=4)
    | st.lists(PLAIN, max_size=4).map(tuple)
    | st.dictionaries(st.text(max_size=5), PLAIN, max_size=4)
)
def test_arguments_are_shown_as_by_celery(arguments: Any) -> None:
    text = shown(arguments)
    assert text is None or text == saferepr(arguments, 1024)


@pytest.mark.parametrize(
    "arguments", [(), [], {}, (1,), ("it's",), [1, None], {"a": 1.5, "b": True}], ids=repr
)
def test_usual_arguments_are_shown(arguments: Any) -> None:
    assert shown(arguments) == saferepr(arguments, 1024)


def test_identifiers_are_random_uuids() -> None:
    made = {identifiers.uuid4() for _ in range(1000)}
    assert len(made) == 1000
    for text in made:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)


def test_a_child_makes_identifiers_of_its_own() -> None:
    identifiers.uuid4()  # some are ready
    with multiprocessing.get_context("fork").Pool(1) as pool:
        theirs = pool.apply(_make_many)
    assert not set(theirs) & set(_make_many())


def _make_many() -> list[str]:
    return [identifiers.uuid4() for _ in range(300)]
