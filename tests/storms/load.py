"""What a storm consists of, made from a seed: the same seed makes the same storm."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NOTES_VARIABLE = "HYBRID_STORM_NOTES"
"""Environment variable with the path of the file in which the tasks write what they saw."""
WORKER_SETTINGS_VARIABLE = "HYBRID_STORM_SETTINGS"
"""Environment variable with settings for the worker alone, as JSON."""
CREDENTIALS_VARIABLE = "HYBRID_STORM_TOKENS"
"""Environment variable that lets the worker log in with tokens that are renewed."""

WITHIN = 25.0
"""Seconds after which somebody who waits for a result counts as hanging."""
QUEUES = 12
"""Queues that are asked for; the n-th has n messages."""


_STEPS = (
    *("publish", "publish", "join", "wait", "declare", "declare"),
    *("own", "own", "store", "progress", "log", "sleep"),
)


@dataclass(frozen=True)
class Call:
    """One task of a storm.

    Attributes:
        number: Its place in the storm, from 0.
        id: Its task id.
        steps: What it does, as the name of a step with its arguments.
        soft: Its soft limit in seconds, if it has one.
        hard: Its hard limit, if it has one.
        is_late: Whether it is acknowledged when it has ended.
        catches: Whether it goes on after its soft limit.
        is_terminated: Whether somebody terminates it.
    """

    number: int
    id: str
    steps: list[list[Any]] = field(repr=False)
    soft: float | None
    hard: float | None
    is_late: bool
    catches: bool
    is_terminated: bool

    @property
    def task(self) -> str:
        return "storm_late" if self.is_late else "storm"

    @property
    def is_interrupted(self) -> bool:
        """Whether it may come to something else than its return value."""
        return bool(self.soft or self.hard or self.is_terminated)


@dataclass(frozen=True)
class Sizes:
    """How large a storm is.

    Attributes:
        tasks: Its tasks.
        noops: What the worker has to run afterwards.
        losses: How many connections are lost.
        calm: Whether it has no limits and terminations.
    """

    tasks: int
    noops: int
    losses: int = 0
    calm: bool = False


def probe_queue(space: str, number: int) -> str:
    """Return the name of a queue that has ``number`` messages."""
    return f"{space}.probe{number}"


def make_calls(seed: int, count: int, space: str, calm: bool = False) -> list[Call]:
    """Return the tasks of one storm.

    Args:
        seed: Makes the storm.
        count: The number of tasks.
        space: The name of the corner of the broker that it happens in.
        calm: Without limits and terminations, so that every task succeeds on any pool.
    """
    chance = random.Random(seed)
    calls: list[Call] = []
    for number in range(count):
        steps = list(_make_steps(chance, number, calls, space))
        # Drawn for a calm storm, too: its steps are those of the other one.
        kind, soft, hard = chance.random(), _milliseconds(chance), _milliseconds(chance)
        catches, is_terminated = chance.random() < 0.3, chance.random() < 0.12
        calls.append(
            Call(
                number=number,
                id=_make_id(chance),
                steps=steps,
                soft=soft if kind < 0.5 and not calm else None,
                hard=_hard_limit(hard, soft if kind < 0.5 else 0.0)
                if 0.3 < kind < 0.7 and not calm
                else None,
                is_late=chance.random() < 0.4,
                catches=catches,
                is_terminated=is_terminated and not calm,
            )
        )
    return calls


def _make_steps(
    chance: random.Random, number: int, before: list[Call], space: str
) -> Iterator[list[Any]]:
    for place in range(chance.randint(3, 6)):
        name = chance.choice(_STEPS)
        if name == "publish":
            yield [name, _make_id(chance), chance.random() < 0.5]
        elif name in ("join", "store"):
            yield [name, _make_id(chance)]
        elif name == "wait":
            if before:
                other = chance.choice(before[-50:])
                yield [name, other.id, other.number]
        elif name == "declare":
            queue = chance.randint(1, QUEUES)
            yield [name, probe_queue(space, queue), queue]
        elif name == "own":
            yield [name, f"own-{number}-{place}"]
        elif name == "log":
            yield [name, f"{number}-{place}"]
        elif name == "sleep":
            yield [name, _milliseconds(chance)]
        else:
            yield [name]


def _hard_limit(hard: float, soft: float) -> float:
    # Celery takes no soft limit that is beyond the hard one.
    return max(hard, soft + 0.001)


def _milliseconds(chance: random.Random) -> float:
    return chance.randint(1, 50) / 1000


def _make_id(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))
