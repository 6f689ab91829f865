"""The pool map as Python sees it, against a dict."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from hybrid._rust import Slab, SlabFullError


class Job:
    pass


def test_a_ticket_gets_its_job_and_keeps_it_in_place() -> None:
    slab = Slab(1)
    job = Job()
    ticket = slab.insert(job, 1)
    assert slab.get(ticket) is job
    assert slab.get(ticket) is job
    assert len(slab) == 1


def test_a_ticket_is_never_zero_and_fits_the_pid_of_an_event() -> None:
    ticket = Slab(1).insert(Job(), 1)
    assert 0 < ticket < 2**64


def test_a_stale_ticket_takes_nothing_from_the_next_job() -> None:
    slab = Slab(1)
    stale = slab.insert(Job(), 1)
    slab.take(stale)
    job = Job()
    ticket = slab.insert(job, 1)
    assert slab.take(stale) is None
    assert slab.get(stale) is None
    assert slab.take(ticket) is job


@pytest.mark.parametrize("ticket", [0, 1, 2**20, 2**64 - 1])
def test_a_made_up_ticket_finds_nothing(ticket: int) -> None:
    slab = Slab(4)
    slab.insert(Job(), 1)
    assert slab.get(ticket) is None or ticket == slab.scan()[0][0]
    assert Slab(4).take(ticket) is None


@pytest.mark.parametrize("ticket", [-1, 2**64, "1", None])
def test_what_cannot_be_a_ticket_is_refused(ticket: object) -> None:
    with pytest.raises((OverflowError, TypeError)):
        Slab(4).take(ticket)  # type: ignore[arg-type]


def test_a_full_slab_says_so() -> None:
    slab = Slab(0)
    with pytest.raises(SlabFullError, match="limit"):
        slab.insert(Job(), 1)


def test_a_smaller_limit_removes_nothing_and_refuses_the_next() -> None:
    slab = Slab(3)
    tickets = [slab.insert(Job(), 1) for _ in range(3)]
    slab.set_limit(1)
    assert (slab.limit, len(slab)) == (1, 3)
    slab.take(tickets[0])
    slab.take(tickets[1])
    with pytest.raises(SlabFullError):
        slab.insert(Job(), 1)
    slab.set_limit(2)
    slab.insert(Job(), 1)


def test_a_scan_tells_times_and_absent_limits() -> None:
    slab = Slab(3)
    plain = slab.insert(Job(), 1)
    soft = slab.insert(Job(), 2, 20)
    both = slab.insert(Job(), 3, 30, 300)
    hard = None
    slab.take(plain)
    hard = slab.insert(Job(), 4, None, 400)
    assert sorted(slab.scan(), key=lambda seen: seen[1]) == [
        (soft, 2, 20, None),
        (both, 3, 30, 300),
        (hard, 4, None, 400),
    ]


def test_a_taken_job_is_released() -> None:
    slab = Slab(1)
    job = Job()
    ticket = slab.insert(job, 1)
    reference = weakref.ref(job)
    del job
    assert reference() is not None
    slab.take(ticket)
    assert reference() is None


def test_a_slab_releases_its_jobs_when_it_goes() -> None:
    slab = Slab(1)
    job = Job()
    slab.insert(job, 1)
    reference = weakref.ref(job)
    del job, slab
    assert reference() is None


def test_a_cycle_through_a_slab_is_collected() -> None:
    slab = Slab(2)
    job = Job()
    job.slab = slab  # type: ignore[attr-defined]
    slab.insert(job, 1)
    slab.insert((slab,), 1)
    reference = weakref.ref(job)
    del job, slab
    gc.collect()
    assert reference() is None


def test_a_finalizer_may_use_the_slab_that_drops_its_job() -> None:
    slab = Slab(1)
    seen = []

    class Last:
        def __del__(self) -> None:
            seen.append(len(slab))
            slab.insert("next", 1)

    slab.take(slab.insert(Last(), 1))
    assert seen == [0]
    assert len(slab) == 1


#: Of a monotonic clock; such that nanoseconds are exact.
SECONDS = st.integers(0, 2**22).map(float)


class Model(RuleBasedStateMachine):
    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.slab = Slab(4)
        self.limit = 4
        self.jobs: dict[int, tuple[Job, tuple[float, float | None, float | None]]] = {}
        self.ever: set[int] = set()

    @rule(
        target=tickets,
        started=SECONDS,
        soft=st.none() | SECONDS,
        hard=st.none() | SECONDS,
    )
    def insert(self, started: float, soft: float | None, hard: float | None) -> int:
        job = Job()
        if len(self.jobs) >= self.limit:
            with pytest.raises(SlabFullError):
                self.slab.insert(job, started, soft, hard)
            return 0
        ticket = self.slab.insert(job, started, soft, hard)
        assert ticket not in self.ever
        self.ever.add(ticket)
        self.jobs[ticket] = (job, (started, soft, hard))
        return ticket

    @rule(ticket=tickets)
    def get(self, ticket: int) -> None:
        assert self.slab.get(ticket) is self.jobs.get(ticket, (None,))[0]

    @rule(ticket=tickets)
    def take(self, ticket: int) -> None:
        assert self.slab.take(ticket) is self.jobs.pop(ticket, (None,))[0]

    @rule(ticket=consumes(tickets))
    def take_twice(self, ticket: int) -> None:
        self.take(ticket)
        assert self.slab.take(ticket) is None

    @rule(limit=st.integers(0, 6))
    def set_limit(self, limit: int) -> None:
        self.slab.set_limit(limit)
        self.limit = limit

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert len(self.slab) == len(self.jobs)
        assert self.slab.limit == self.limit
        assert {ticket: tuple(times) for ticket, *times in self.slab.scan()} == {
            ticket: times for ticket, (_, times) in self.jobs.items()
        }


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_a_slab_behaves_like_a_dict = pytest.mark.slow(Model.TestCase)


@pytest.mark.slow
def test_threads_share_a_slab_while_another_scans() -> None:
    slab = Slab(32)
    done = threading.Event()
    faults: list[object] = []

    def hammer(number: int) -> None:
        for turn in range(3_000):
            job = (number, turn)
            ticket = slab.insert(job, number * 1_000_000 + turn, turn, turn)
            if slab.get(ticket) != job or slab.take(ticket) != job or slab.take(ticket):
                faults.append(job)

    def scan() -> None:
        while not done.is_set():
            seen = slab.scan()
            tickets = {ticket for ticket, *_ in seen}
            torn = [times for _, *times in seen if not times[0] % 1_000_000 == times[1] == times[2]]
            if torn or len(tickets) < len(seen) or len(seen) > 8:
                faults.append(seen)

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(8)]
    watcher = threading.Thread(target=scan)
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    assert faults == []
    assert slab.scan() == []


def test_of_threads_that_race_for_a_ticket_one_gets_the_job() -> None:
    slab = Slab(1)
    for turn in range(50):
        ticket = slab.insert(turn, 1)
        won: list[int] = []
        start = threading.Barrier(4)

        def take(
            ticket: int = ticket, won: list[int] = won, start: threading.Barrier = start
        ) -> None:
            start.wait()
            job = slab.take(ticket)
            if job is not None:
                won.append(job)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [turn]
