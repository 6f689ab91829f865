"""What asyncio keeps for a native thread is kept for each greenlet."""

from __future__ import annotations

import asyncio
import selectors
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Callable

import pytest
from greenlet import gettrace, settrace

from hybrid import hubs
from hybrid.hubs.running_loops import RunningLoops
from hybrid.patches import asyncio as patches


@pytest.fixture
def told() -> SimpleNamespace:
    return SimpleNamespace(blocked=[], foreign=[])


@pytest.fixture
def loops(hub: hubs.Hub, told: SimpleNamespace) -> Iterator[RunningLoops]:
    loops = RunningLoops(
        hub, lambda _, place: told.blocked.append(place), lambda loop: told.foreign.append(loop)
    )
    loops.keep_apart()
    yield loops
    time.sleep(0)
    # Nobody is away, so the switch above was the last that was looked at.
    assert gettrace() is None
    assert loops._away == 0
    for patch in vars(patches).values():
        if isinstance(patch, patches.Patch):
            patch.undo()


@pytest.fixture
def run_all(hub: hubs.Hub) -> Callable[..., list[Any]]:
    """Call functions in greenlets of their own, at the same time; return what comes of each."""

    def run_all(*functions: Callable[[], Any]) -> list[Any]:
        outcomes: list[Any] = [None] * len(functions)

        def run(number: int, function: Callable[[], Any]) -> None:
            try:
                outcomes[number] = function()
            except BaseException as exc:
                outcomes[number] = exc
            ended.append(number)

        ended: list[int] = []
        for number, function in enumerate(functions):
            hub.spawn(run, number, function)
        deadline = time.monotonic() + 10
        while len(ended) < len(functions):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return outcomes

    return run_all


def look() -> tuple[Any, Any, Any]:
    return asyncio._get_running_loop(), *sys.get_asyncgen_hooks()


async def wait() -> str:
    await asyncio.sleep(0.01)
    return "waited"


async def block() -> str:
    me = asyncio.current_task(), *look()
    time.sleep(0.01)
    assert (asyncio.current_task(), *look()) == me
    assert None not in me
    return "blocked"


def test_others_are_in_no_loop_while_one_waits_or_blocks(
    loops: RunningLoops, run_all: Callable[..., list[Any]]
) -> None:
    def looks() -> set[Any]:
        seen = set()
        for _ in range(30):
            seen.add(look())
            time.sleep(0.001)
        return seen

    outcomes = run_all(lambda: asyncio.run(wait()), lambda: asyncio.run(block()), looks)
    assert outcomes == ["waited", "blocked", {(None, None, None)}]
    assert look() == (None, None, None)


def test_a_greenlet_that_a_step_starts_or_switches_to_is_in_no_loop(
    loops: RunningLoops, hub: hubs.Hub
) -> None:
    seen = []

    async def start() -> None:
        hub.spawn(lambda: seen.append(look()))
        time.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(start())
    assert seen == [(None, None, None)]


def test_what_is_raised_where_a_loop_waits_or_a_step_blocks_finds_it_running(
    loops: RunningLoops, hub: hubs.Hub, run_all: Callable[..., list[Any]]
) -> None:
    class LimitError(Exception):
        pass

    async def clean_up(does_block: bool) -> None:
        hub.call_later(0.01, lambda: hub.interrupt(me, LimitError))
        me = hub.current()
        try:
            if does_block:
                time.sleep(10)
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0)
            cleaned.append(asyncio.current_task() is not None)

    cleaned: list[bool] = []
    outcomes = run_all(*(lambda b=b: asyncio.run(clean_up(b)) for b in (False, True)))
    assert [type(outcome) for outcome in outcomes] == [LimitError, LimitError]
    assert cleaned == [True, True]
    assert look() == (None, None, None)


def test_the_loop_of_a_thread_is_that_of_a_greenlet(
    loops: RunningLoops, run_all: Callable[..., list[Any]]
) -> None:
    def set_and_get() -> bool:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        time.sleep(0.001)
        is_mine = asyncio.get_event_loop() is loop
        loop.close()
        return is_mine

    assert run_all(*[set_and_get] * 3) == [True] * 3


def test_a_selector_of_the_users_own_is_taken(
    loops: RunningLoops, told: SimpleNamespace, run_all: Callable[..., list[Any]]
) -> None:
    class Own(selectors.SelectSelector):
        pass

    class Slotted:
        """Its objects take no other class."""

        __slots__ = ("own",)

        def __init__(self) -> None:
            self.own = Own()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.own, name)

        def select(self, timeout: float | None = None) -> Any:
            return self.own.select(timeout)

    def run(cls: Any) -> Any:
        loop = asyncio.SelectorEventLoop(cls())
        assert isinstance(loop._selector, cls)  # type: ignore[attr-defined]
        try:
            return loop.run_until_complete(asyncio.wait_for(block_and_wait(), 10))
        finally:
            loop.close()

    async def block_and_wait() -> str:
        await asyncio.sleep(0.15)
        return await block() and await wait()

    kinds = [Own, Slotted] * 2
    assert run_all(*(lambda cls=cls: run(cls) for cls in kinds)) == ["waited"] * 4
    assert told.blocked == []


def test_where_a_coroutine_blocks_for_long_is_told(
    loops: RunningLoops, told: SimpleNamespace
) -> None:
    async def short() -> None:
        time.sleep(0.001)
        await asyncio.to_thread(time.sleep, 0.05)

    async def long() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.01
        await short()
        for _ in range(2000):
            time.sleep(0.001)
            if told.blocked:
                break

    asyncio.run(short())
    asyncio.run(long())
    assert [(place.function, place.file) for place in told.blocked] == [("long", __file__)]


def test_nothing_is_called_for_switches_where_no_step_is_away(loops: RunningLoops) -> None:
    traces = []

    def waits() -> None:
        for _ in range(10):
            time.sleep(0.001)
            traces.append(gettrace())

    async def idle() -> None:
        await asyncio.sleep(0.05)

    waiting = threading.Thread(target=waits)
    waiting.start()
    asyncio.run(idle())
    waiting.join()
    assert set(traces) == {None}


def test_tracers_of_others_go_on(loops: RunningLoops) -> None:
    events: list[str] = []
    before = lambda event, _: events.append("before")  # noqa: E731

    async def set_one() -> None:
        earlier = settrace(lambda *args: (events.append("inside"), earlier(*args)))
        time.sleep(0)
        await asyncio.sleep(0.001)
        time.sleep(0)
        assert asyncio.current_task() is not None

    settrace(before)
    asyncio.run(set_one())
    assert {"before", "inside"} <= set(events)
    settrace(None)


def test_a_loop_that_does_not_wait_in_the_hub_is_told(
    loops: RunningLoops, told: SimpleNamespace
) -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    assert loop.run_until_complete(block()) == "blocked"
    loop.close()
    assert told.foreign == [loop]


def test_a_native_thread_has_its_own(loops: RunningLoops, hub: hubs.Hub) -> None:
    if hub.name != "gevent":
        pytest.skip("eventlet's pool of threads is one for tests of its own")
    import gevent

    assert gevent.get_hub().threadpool.apply(asyncio.run, (wait(),)) == "waited"
