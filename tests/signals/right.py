"""What is right in each cell.

Exit codes are those of the stock pools: zero, also after a cold shutdown, and one after SIGINT.
There Celery forgets it if the second one comes before the first was looked at, which is chance.
With a half-open link, Celery waits for answers of the broker without a bound; right is to end all
the same, and to leave to the broker what it was not told of. SIGHUP starts again whatever was
started: stock pools end with an error where that was `python -m celery`.
"""

from __future__ import annotations

from dataclasses import dataclass

from matrix import Cell

#: Endings that wait for the tasks that run.
WARM = frozenset({"TERM", "INT", "control.shutdown", "HUP"})
#: Seconds that a task sleeps whose end is waited for, and one that is cut short.
SHORT, LONG = 1.0, 60.0
#: Seconds for which a soft shutdown waits.
SOFT = 2.0
#: Seconds in which a worker has to end while its broker answers, or refuses it; and while it is
#: silent.
BOUND, SILENT_BOUND = 15.0, 40.0


@dataclass
class Observed:
    """What came of a cell.

    Attributes:
        code: The exit code; ``None`` if it still ran after the bound.
        took: Seconds from the last signal to the end.
        began: How often each task began.
        woke: How often each task came to its end.
        sent: The ids of all tasks, in order.
        short: Those that sleep for :data:`SHORT` seconds.
        ready: Messages that any worker may take.
        unacked: Messages that are somebody's, on Redis.
        restarted: Whether the worker has started again.
    """

    code: int | None
    took: float
    began: dict[str, int]
    woke: dict[str, int]
    sent: list[str]
    short: list[str]
    ready: int
    unacked: int
    restarted: bool = False


def exit_code(cell: Cell) -> int:
    """Return the exit code that is right."""
    return 1 if cell.ending in ("INT", "INT INT") else 0


def bound(cell: Cell) -> float:
    """Return the seconds in which it has to end."""
    return SILENT_BOUND if cell.state == "half-open" else BOUND


def findings(cell: Cell, seen: Observed) -> list[str]:
    """Say what is wrong, one line for each kind."""
    wrong = []
    if seen.code is None and not seen.restarted:
        return [f"still runs after {bound(cell):g} s"]
    if cell.ending == "HUP":
        if not seen.restarted:
            wrong.append(f"ended with {seen.code} and did not start again")
    elif seen.code != exit_code(cell):
        wrong.append(f"ended with {seen.code}, not {exit_code(cell)}")
    if seen.took > bound(cell):
        wrong.append(f"took {seen.took:.1f} s")
    done = [task for task in seen.sent if task in seen.woke]
    undone = len(seen.sent) - len(done)
    left = seen.ready + seen.unacked
    is_reachable = cell.state not in ("waiting", "half-open")
    if left < undone:
        wrong.append(f"{undone - left} of {len(seen.sent)} tasks are lost")
    if is_reachable:
        if left > undone:
            wrong.append(f"{left - undone} finished tasks are left in the broker")
        if seen.unacked:
            wrong.append(f"{seen.unacked} messages belong to nobody who lives")
        twice = [task for task, times in seen.woke.items() if times > 1]
        if twice:
            wrong.append(f"{len(twice)} tasks ran twice")
    if cell.ending == "HUP":
        return wrong
    again = [task for task, times in seen.began.items() if times > 1]
    may_come_again = cell.ending == "control.shutdown" and not is_reachable
    if again and not may_come_again:
        wrong.append(f"{len(again)} tasks began again")
    if cell.ending in WARM:
        cut = [task for task in seen.began if task not in seen.woke]
        if cut:
            wrong.append(f"{len(cut)} tasks that had begun were not waited for")
    else:
        late = [task for task in done if task not in seen.short]
        if late:
            wrong.append(f"{len(late)} tasks were not cut short")
        if cell.ending == "soft" and is_reachable:
            cut = [task for task in seen.short if task in seen.began and task not in seen.woke]
            if cut:
                wrong.append(f"{len(cut)} short tasks were not waited for")
    return wrong
