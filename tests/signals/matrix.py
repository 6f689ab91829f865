"""The cells of the matrix, and which of them are run."""

from __future__ import annotations

import itertools
import random
from dataclasses import astuple, dataclass, fields

ENDINGS = (
    "TERM",
    "INT",
    "INT INT",
    "QUIT",
    "TERM QUIT",
    "REMAP_SIGTERM",
    "soft",
    "control.shutdown",
    "HUP",
)
STATES = ("starting", "idle", "busy", "full", "waiting", "half-open")
PREFETCH = (0, 1, 4)
BROKERS = ("redis", "rabbitmq")
HUBS = ("gevent", "eventlet")


@dataclass(frozen=True)
class Cell:
    """One worker, and how it ends.

    Attributes:
        ending: What tells it to.
        state: What it does at that moment.
        prefetch: Its prefetch multiplier.
        broker: ``redis`` or ``rabbitmq``.
        hub: ``gevent`` or ``eventlet``.
    """

    ending: str
    state: str
    prefetch: int
    broker: str
    hub: str

    def __str__(self) -> str:
        return " | ".join(str(value) for value in astuple(self))

    @property
    def slug(self) -> str:
        """A name for files."""
        return "-".join(str(value).replace(" ", "_") for value in astuple(self))


def every() -> list[Cell]:
    """Return all cells."""
    axes = itertools.product(ENDINGS, STATES, PREFETCH, BROKERS, HUBS)
    return [Cell(*values) for values in axes]


def pairwise() -> list[Cell]:
    """Return cells in which every two values of two dimensions meet."""
    cells = every()
    random.Random(1).shuffle(cells)  # so that no value is preferred where nothing is missing
    missing = set().union(*(_pairs(cell) for cell in cells))
    chosen = []
    while missing:
        best = max(cells, key=lambda cell: len(_pairs(cell) & missing))
        chosen.append(best)
        missing -= _pairs(best)
    return chosen


def _pairs(cell: Cell) -> set[tuple[tuple[str, object], ...]]:
    values = [(field.name, getattr(cell, field.name)) for field in fields(cell)]
    return set(itertools.combinations(values, 2))
