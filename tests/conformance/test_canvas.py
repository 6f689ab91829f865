"""Chains, groups, chords and what they nest into."""

from __future__ import annotations

import pytest
from celery import Celery, chain, chord, group, states
from celery.exceptions import ChordError
from harness.journal import Journal
from harness.waiting import eventually


def test_a_chain_passes_each_result_on(client: Celery) -> None:
    sig = client.signature
    result = chain(sig("add", (1, 2)), sig("add", (4,)), sig("add", (8,)), app=client)()
    assert result.get(timeout=20) == 15
    assert result.parent.get(timeout=5) == 7
    assert result.parent.parent.get(timeout=5) == 3


def test_a_failure_stops_its_chain_and_calls_link_error(
    client: Celery, journal: Journal, tag: str
) -> None:
    sig = client.signature
    links = chain(
        sig("add", (1, 2)),
        sig("fail", ("ValueError", "broken"), immutable=True),
        sig("note", (tag, "after")),
        app=client,
    )
    result = links.apply_async(
        link_error=sig("note_any", kwargs={"tag": tag, "event": "link_error"})
    )
    with pytest.raises(ValueError, match="broken"):
        result.parent.get(timeout=20)
    journal.wait_for(tag, "link_error")
    assert journal.events(tag) == ["link_error"]


def test_links_of_a_chain_know_root_and_parent(client: Celery) -> None:
    sig = client.signature
    first = sig("describe", ())
    result = chain(first, sig("describe", ()), app=client)()
    seen = result.get(timeout=20)
    assert seen["root_id"] == seen["parent_id"] == result.parent.id


def test_a_group_keeps_the_order_of_its_members(client: Celery) -> None:
    result = group([client.signature("add", (n, n)) for n in range(30)], app=client)()
    assert result.get(timeout=30) == [n + n for n in range(30)]
    assert result.successful()


def test_a_group_reports_its_failed_member(client: Celery) -> None:
    sig = client.signature
    result = group([sig("add", (1, 1)), sig("fail", ("KeyError", "x"))], app=client)()
    with pytest.raises(KeyError):
        result.get(timeout=20)
    assert result.results[0].get(timeout=5) == 2


@pytest.mark.parametrize("size", [1, 2, 25])
def test_a_chord_calls_its_body_once_with_all_results(client: Celery, size: int) -> None:
    header = [client.signature("add", (n, 1)) for n in range(size)]
    result = chord(header, client.signature("add_all"), app=client)()
    assert result.get(timeout=30) == sum(range(1, size + 1))


def test_a_failed_header_fails_the_body_and_calls_its_link_error(
    client: Celery, journal: Journal, tag: str
) -> None:
    sig = client.signature
    body = sig("add_all").on_error(sig("note_any", kwargs={"tag": tag, "event": "link_error"}))
    result = chord([sig("add", (1, 1)), sig("fail", ("ValueError", "x"))], body, app=client)()
    journal.wait_for(tag, "link_error")
    eventually(lambda: result.state == states.FAILURE, "the body to fail")
    assert isinstance(result.result, ChordError)


def test_chords_and_groups_nest(client: Celery) -> None:
    sig = client.signature
    inner = chord([sig("add", (n, 1)) for n in range(3)], sig("add_all"), app=client)
    outer = chord(
        [inner, chain(sig("add", (1, 1)), sig("add", (5,)), app=client)], sig("add_all"), app=client
    )
    assert outer().get(timeout=30) == 6 + 7


def test_a_group_in_the_middle_of_a_chain_becomes_a_chord(client: Celery) -> None:
    sig = client.signature
    result = chain(
        sig("add", (1, 1)),
        group([sig("add", (n,)) for n in range(4)], app=client),
        sig("add_all"),
        app=client,
    )()
    assert result.get(timeout=30) == sum(2 + n for n in range(4))


def test_map_starmap_and_chunks_run(client: Celery) -> None:
    add = client.signature("add")
    starmap = client.signature("celery.starmap", kwargs={"task": add, "it": [[1, 2], [3, 4]]})
    assert starmap.delay().get(timeout=15) == [3, 7]
    chunked = client.signature("celery.chunks", kwargs={"task": add, "it": [[1, 2]], "n": 1})
    assert client.signature(
        "celery.map", kwargs={"task": client.signature("echo"), "it": [1, 2]}
    ).delay().get(timeout=15) == [1, 2]
    assert chunked is not None


def test_tasks_publish_tasks_which_publish_tasks(
    client: Celery, journal: Journal, tag: str
) -> None:
    root = client.signature("fan_out", (3, tag)).delay()
    entries = journal.wait_for(tag, "run", times=15, within=30)
    assert {entry["root"] for entry in entries} == {root.id}
    assert sorted(entry["depth"] for entry in entries) == [0] * 8 + [1] * 4 + [2] * 2 + [3]


def test_a_task_may_wait_for_its_subtasks(client: Celery) -> None:
    assert client.signature("waits_for_child", (1, 2)).delay().get(timeout=20) == 103
    assert client.signature("waits_for_group", (5,)).delay().get(timeout=20) == 15


def test_a_task_replaces_itself(client: Celery) -> None:
    assert client.signature("replaced", (5,)).delay().get(timeout=20) == 16
    assert client.signature("replaced_by_chord", (4,)).delay().get(timeout=20) == 1 + 2 + 3 + 4


def test_a_header_task_adds_to_its_chord(client: Celery) -> None:
    body = client.signature("add_all")
    result = chord([client.signature("adds_to_chord", (n,)) for n in (1, 2)], body, app=client)()
    assert result.get(timeout=20) == 1 + 101 + 2 + 102
