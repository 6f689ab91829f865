"""The parts of Celery's tracer that are replaced do what Celery's do."""

from __future__ import annotations

import random
from typing import Any

import pytest
from celery.app.task import Context as CelerysContext
from celery.utils.saferepr import saferepr
from celery.utils.threads import _LocalStack
from greenlet import getcurrent, greenlet
from hypothesis import given
from hypothesis import strategies as st

from hybrid.worker.execution.tracing import Context, GreenStack, _saferepr

HEADERS = [name for name in vars(CelerysContext) if not name.startswith("_")]
NAMES = st.sampled_from([*HEADERS, "lang", "task", "argsrepr", "compression", "tenant", "x-death"])
VALUES = st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers(), max_size=3))
TIMELIMITS = st.sampled_from([None, [None, None], [3, 2], (3,), "no"])


def both(*args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return vars(Context(*args, **kwargs)), vars(CelerysContext(*args, **kwargs))


@given(st.dictionaries(NAMES, VALUES), TIMELIMITS)
def test_a_context_is_celerys(headers: dict[str, Any], timelimit: Any) -> None:
    for request in (headers, {**headers, "timelimit": timelimit}):
        for _ in range(2):  # the second time the names are known
            ours, celerys = both(request, args=[1], called_directly=False, kwargs={"a": 1})
            assert ours == celerys
            assert list(ours) == list(celerys)


@pytest.mark.parametrize("args", [(), ({},), ([("id", 1), ("tenant", 2)],)])
def test_a_context_takes_whatever_celerys_takes(args: tuple[Any, ...]) -> None:
    ours, celerys = both(*args, retries=1)
    assert ours == celerys


def test_custom_headers_of_one_message_are_not_those_of_another() -> None:
    first = Context({"id": 1, "tenant": "a"})
    second = Context({"id": 2, "tenant": "b"})
    assert (first.headers, second.headers) == ({"tenant": "a"}, {"tenant": "b"})
    assert Context({"id": 3}).headers is None


def new_stack() -> GreenStack:
    stack: Any = _LocalStack()
    known = stack
    GreenStack.take_over(stack)
    assert stack is known
    assert type(stack) is GreenStack
    return stack  # type: ignore[no-any-return]


def test_a_stack_is_celerys_in_every_greenlet() -> None:
    ours, celerys = new_stack(), _LocalStack()
    parent = getcurrent()
    rng = random.Random(1)

    def state(stack: Any) -> Any:
        return stack.top, list(stack.stack), len(stack)

    def run() -> None:
        while True:
            operation, value = parent.switch()
            arguments = (value,) if operation == "push" else ()
            outcomes = [getattr(stack, operation)(*arguments) for stack in (ours, celerys)]
            assert outcomes[0] == outcomes[1]
            assert state(ours) == state(celerys)

    greenlets = [greenlet(run) for _ in range(4)]
    for one in greenlets:
        one.switch()
    for value in range(600):
        operation = rng.choice(["push", "push", "pop", "__release_local__"])
        rng.choice(greenlets).switch((operation, value))
    assert state(ours) == (None, [], 0)


def test_a_proxy_of_a_stack_follows_it() -> None:
    stack = new_stack()
    proxy = stack()
    with pytest.raises(RuntimeError, match="unbound"):
        _ = proxy.real
    stack.push(1 + 2j)
    assert proxy.real == 1
    assert stack.pop() == 1 + 2j
    assert stack.pop() is None


def test_nothing_of_an_empty_stack_is_left() -> None:
    stack = new_stack()
    seen: list[dict[str, Any]] = []

    def run() -> None:
        stack.push(1)
        stack.pop()
        seen.append(dict(getcurrent().__dict__))

    greenlet(run).switch()
    assert seen == [{}]


@pytest.mark.parametrize("maxlen", [None, 1, 3, 63, 64, 1024])
def test_the_text_of_a_result_is_celerys(maxlen: int | None) -> None:
    values = [None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**64, 10**70, 1.5, "text", [None]]
    for value in values:
        assert _saferepr(value, maxlen) == saferepr(value, maxlen)
