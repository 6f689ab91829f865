"""The timer heap as Python sees it, against a sorted list."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from hybrid._rust import TimerEntry, TimerHeap


def nothing() -> None:
    pass


def test_an_entry_has_kombus_attributes() -> None:
    entry = TimerEntry(nothing, (1,), {"a": 2})
    assert (entry.fun, entry.args, entry.kwargs) == (nothing, (1,), {"a": 2})
    assert (entry.canceled, entry.cancelled) == (False, False)
    assert entry.tref is entry
    assert entry.entry is entry


def test_an_entry_without_arguments_has_empty_ones() -> None:
    entry = TimerEntry(nothing)
    assert (list(entry.args), entry.kwargs) == ([], {})


def test_entries_expire_by_time_and_then_by_insertion() -> None:
    heap = TimerHeap()
    late, first, second = (TimerEntry(nothing) for _ in range(3))
    heap.push(late, 2.0)
    heap.push(first, 1.0)
    heap.push(second, 1.0)
    assert heap.expire(0.5, 10) == []
    assert heap.expire(1.0, 10) == [first, second]
    assert heap.expire(9.0, 10) == [late]


def test_expire_takes_no_more_than_its_limit() -> None:
    heap = TimerHeap()
    entries = [TimerEntry(nothing) for _ in range(5)]
    for entry in entries:
        heap.push(entry, 1.0)
    assert heap.expire(1.0, 2) == entries[:2]
    assert heap.expire(1.0, 0) == []
    assert heap.expire(1.0, 9) == entries[2:]


def test_push_tells_whether_the_entry_is_the_earliest() -> None:
    heap = TimerHeap()
    assert heap.push(TimerEntry(nothing), 2.0)
    assert not heap.push(TimerEntry(nothing), 2.0)
    assert heap.push(TimerEntry(nothing), 1.0)


def test_a_second_push_moves_the_entry() -> None:
    heap = TimerHeap()
    entry = TimerEntry(nothing)
    heap.push(entry, 1.0)
    heap.push(entry, 5.0, 3)
    assert (len(heap), heap.next_eta(), entry.eta, entry.priority) == (1, 5.0, 5.0, 3)
    assert heap.expire(4.0, 9) == []
    assert heap.expire(5.0, 9) == [entry]


@pytest.mark.parametrize("spelling", ["canceled", "cancelled", "cancel"])
def test_cancelling_frees_the_place_at_once(spelling: str) -> None:
    heap = TimerHeap()
    entry = TimerEntry(nothing)
    heap.push(entry, 1.0)
    if spelling == "cancel":
        entry.cancel()
    else:
        setattr(entry, spelling, True)
    assert (entry.canceled, entry.cancelled, len(heap)) == (True, True, 0)
    entry.cancel()
    assert heap.expire(2.0, 9) == []


def test_a_cancelled_entry_can_be_pushed_again() -> None:
    heap = TimerHeap()
    entry = TimerEntry(nothing)
    heap.push(entry, 1.0)
    entry.cancel()
    heap.push(entry, 2.0)
    assert not entry.canceled
    assert heap.expire(2.0, 9) == [entry]


def test_cancelling_before_the_first_push_is_harmless() -> None:
    entry = TimerEntry(nothing)
    entry.cancel()
    assert entry.canceled


def test_an_entry_belongs_to_one_heap() -> None:
    entry = TimerEntry(nothing)
    TimerHeap().push(entry, 1.0)
    with pytest.raises(ValueError, match="another timer"):
        TimerHeap().push(entry, 1.0)


@pytest.mark.parametrize("eta", [-1.0, -1e300, 0.0, float("-inf")])
def test_a_time_before_the_clock_is_due_at_once(eta: float) -> None:
    heap = TimerHeap()
    entry = TimerEntry(nothing)
    heap.push(entry, eta)
    assert heap.expire(0.0, 1) == [entry]


def test_a_time_without_end_is_never_due() -> None:
    heap = TimerHeap()
    entry = TimerEntry(nothing)
    heap.push(entry, float("inf"))
    assert heap.expire(1e9, 1) == []
    assert len(heap) == 1


def test_a_time_that_is_no_number_is_refused() -> None:
    heap = TimerHeap()
    with pytest.raises(ValueError, match="nan"):
        heap.push(TimerEntry(nothing), float("nan"))
    assert len(heap) == 0


def test_clear_forgets_all_and_lets_entries_come_back() -> None:
    heap = TimerHeap()
    entries = [TimerEntry(nothing) for _ in range(3)]
    for entry in entries:
        heap.push(entry, 1.0)
    heap.clear()
    assert (len(heap), heap.next_eta(), heap.entries()) == (0, None, [])
    assert not entries[0].canceled
    heap.push(entries[0], 1.0)
    assert heap.expire(1.0, 9) == entries[:1]


def test_an_entry_is_kept_by_the_heap_and_released_after_it() -> None:
    heap = TimerHeap()
    entry = TimerEntry(nothing)
    heap.push(entry, 1.0)
    reference = weakref.ref(entry)
    del entry
    assert reference() is not None
    heap.expire(1.0, 1)
    assert reference() is None


def test_a_finalizer_may_use_the_heap_that_drops_its_entry() -> None:
    heap = TimerHeap()

    class Argument:
        def __del__(self) -> None:
            heap.push(TimerEntry(nothing), 7.0)

    for drop in (heap.clear, lambda: heap.expire(1.0, 9), lambda: heap.entries()[0].cancel()):
        heap.clear()
        heap.push(TimerEntry(nothing, (Argument(),)), 1.0)
        drop()
        assert heap.next_eta() == 7.0


@pytest.mark.parametrize("pushed", [True, False])
def test_a_cycle_through_an_entry_is_collected(pushed: bool) -> None:
    class Owner:
        heap: TimerHeap
        entry: TimerEntry

        def call(self) -> None:
            pass

    owner = Owner()
    owner.heap = TimerHeap()
    owner.entry = TimerEntry(owner.call, (owner,), {"owner": owner})
    if pushed:
        owner.heap.push(owner.entry, 1.0)
    reference = weakref.ref(owner)
    del owner
    gc.collect()
    assert reference() is None


def test_a_cycle_of_an_entry_and_its_heap_alone_is_collected() -> None:
    entry = TimerEntry(nothing)
    TimerHeap().push(entry, 1.0)
    reference = weakref.ref(entry)
    del entry
    gc.collect()
    assert reference() is None


def test_cancelled_entries_give_their_memory_back() -> None:
    heap = TimerHeap()
    entries = [TimerEntry(nothing) for _ in range(20_000)]
    for entry in entries:
        heap.push(entry, 1.0)
    held = heap.memory_bytes()
    for entry in entries:
        entry.cancel()
    assert heap.memory_bytes() < held / 20


def test_the_heap_takes_at_most_a_hundred_bytes_for_an_entry() -> None:
    heap = TimerHeap()
    for _ in range(20_000):
        heap.push(TimerEntry(nothing), 1.0)
    assert heap.memory_bytes() / 20_000 <= 100


class Model(RuleBasedStateMachine):
    entries = Bundle("entries")

    def __init__(self) -> None:
        super().__init__()
        self.heap = TimerHeap()
        self.held: list[tuple[float, int, TimerEntry]] = []
        self.pushes = 0

    def forget(self, entry: TimerEntry) -> None:
        self.held = [held for held in self.held if held[2] is not entry]

    @rule(target=entries)
    def make(self) -> TimerEntry:
        return TimerEntry(nothing)

    @rule(entry=entries, eta=st.integers(0, 20), priority=st.integers(-9, 9))
    def push(self, entry: TimerEntry, eta: int, priority: int) -> None:
        self.forget(entry)
        earliest = all(eta < held for held, _, _ in self.held)
        self.pushes += 1
        self.held.append((eta, self.pushes, entry))
        assert self.heap.push(entry, float(eta), priority) == earliest
        assert (entry.eta, entry.priority, entry.canceled) == (eta, priority, False)

    @rule(entry=entries)
    def cancel(self, entry: TimerEntry) -> None:
        self.forget(entry)
        entry.cancel()
        assert entry.canceled

    @rule(now=st.integers(0, 20), limit=st.integers(0, 5))
    def expire(self, now: int, limit: int) -> None:
        due = sorted((held for held in self.held if held[0] <= now), key=lambda held: held[:2])
        expected = [entry for _, _, entry in due[:limit]]
        for entry in expected:
            self.forget(entry)
        assert self.heap.expire(float(now), limit) == expected

    @rule()
    def clear(self) -> None:
        self.heap.clear()
        self.held = []

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert len(self.heap) == len(self.held)
        assert self.heap.next_eta() == min((eta for eta, _, _ in self.held), default=None)
        assert set(map(id, self.heap.entries())) == {id(entry) for _, _, entry in self.held}


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_a_heap_behaves_like_a_sorted_list = pytest.mark.slow(Model.TestCase)


@pytest.mark.slow
def test_threads_share_a_heap() -> None:
    heap = TimerHeap()
    expired: list[Any] = []

    def hammer(number: int) -> None:
        for turn in range(2_000):
            kept, dropped = TimerEntry(nothing, (number, turn)), TimerEntry(nothing)
            heap.push(kept, float(turn % 7))
            heap.push(dropped, float(turn % 5))
            dropped.cancel()

    def expire() -> None:
        while len(expired) < 8_000:
            expired.extend(entry.args for entry in heap.expire(9.0, 100) if not entry.canceled)

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
    threads.append(threading.Thread(target=expire))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(expired) == [(number, turn) for number in range(4) for turn in range(2_000)]
    assert len(heap) == 0
