"""Protocols, serializers and compressions on the wire."""

from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, chain, chord
from harness.journal import Journal
from harness.worker import Worker, close_client, make_client

_RICH: dict[str, Any] = {
    "when": datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc),
    "day": date(2026, 3, 1),
    "id": UUID("6d9a3ff6-7c0d-4f7c-9d3b-1f1d9f1c8d11"),
    "price": Decimal("12.50"),
    "raw": b"\x00\xffbytes",
}


@pytest.mark.parametrize("protocol", [1, 2])
def test_both_task_protocols_are_understood(
    worker: Worker, journal: Journal, protocol: int, tag: str
) -> None:
    client = make_client({**worker.settings, "task_protocol": protocol})
    try:
        sig = client.signature
        assert sig("add", (2, 2)).delay().get(timeout=15) == 4
        seen = sig("describe", (1,), {"a": 2}).apply_async(countdown=0.2).get(timeout=15)
        assert (seen["args"], seen["kwargs"]) == ([1], {"a": 2})
        with pytest.raises(ValueError, match="old"):
            sig("fail", ("ValueError", "old")).delay().get(timeout=15)
        retried = sig("retry_twice").delay()
        assert retried.get(timeout=20) == 2
        link = sig("note_any", kwargs={"tag": tag, "event": "linked"})
        assert sig("add", (3, 4)).apply_async(link=link).get(timeout=15) == 7
        assert journal.wait_for(tag, "linked")[0]["args"] == [7]
    finally:
        close_client(client)


@pytest.mark.parametrize("protocol", [1, 2])
def test_canvas_works_in_both_protocols(worker: Worker, protocol: int) -> None:
    client = make_client({**worker.settings, "task_protocol": protocol})
    try:
        sig = client.signature
        assert chain(sig("add", (1, 1)), sig("add", (2,)), app=client)().get(timeout=20) == 4
        header = [sig("add", (n, n)) for n in range(4)]
        assert chord(header, sig("add_all"), app=client)().get(timeout=20) == 12
    finally:
        close_client(client)


@pytest.mark.parametrize("serializer", ["json", "yaml", "pickle", "msgpack"])
def test_every_serializer_carries_arguments(client: Celery, serializer: str) -> None:
    value = {"text": "naïve ✓", "list": [1, -2, 3.5, None, True], "nested": {"a": {"b": "c"}}}
    sent = client.signature("echo", (value,)).apply_async(serializer=serializer)
    assert sent.get(timeout=15) == value


def test_json_carries_the_types_kombu_adds(client: Celery) -> None:
    got = client.signature("echo", (_RICH,)).apply_async(serializer="json").get(timeout=15)
    assert (got["when"], got["id"], got["price"]) == (
        _RICH["when"],
        _RICH["id"],
        _RICH["price"],
    )
    assert got["raw"] == _RICH["raw"]


def test_pickle_keeps_types_that_json_loses(client: Celery) -> None:
    # Nothing that JSON refuses: the extended result repeats the arguments.
    value = ((1, 2), {3: "three"})
    sent = client.signature("represent", value).apply_async(serializer="pickle")
    assert sent.get(timeout=15) == repr(value)


@pytest.mark.parametrize("compression", ["zlib", "gzip", "bzip2", "lzma"])
@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_compressed_messages_are_understood(
    client: Celery, compression: str, serializer: str
) -> None:
    value = "naïve " * 2000
    sent = client.signature("echo", (value,)).apply_async(
        compression=compression, serializer=serializer
    )
    assert sent.get(timeout=15) == value


@pytest.mark.parametrize("serializer", ["yaml", "pickle", "msgpack"])
def test_compression_and_serializer_hold_for_retries(
    client: Celery, journal: Journal, serializer: str
) -> None:
    result = client.signature("retry_twice").apply_async(serializer=serializer, compression="zlib")
    assert result.get(timeout=20) == 2


def test_custom_headers_reach_the_task(client: Celery, tag: str) -> None:
    seen = client.signature("describe").apply_async(headers={"customer": tag}).get(timeout=15)
    assert (seen["headers"] or {}).get("customer") == tag


def test_a_large_message_arrives_whole(client: Celery) -> None:
    value = "x" * 3_000_000
    assert client.signature("echo", (value,)).delay().get(timeout=30) == value


def test_an_empty_call_arrives(client: Celery) -> None:
    assert client.signature("echo").delay().get(timeout=15) is None


def test_a_given_task_id_is_kept(client: Celery, tag: str) -> None:
    assert client.signature("describe").apply_async(task_id=tag).get(timeout=15)["id"] == tag


def test_a_shadow_name_is_shown_instead(client: Celery) -> None:
    seen = client.signature("describe").apply_async(shadow="other").get(timeout=15)
    assert seen["name"] == "describe"
