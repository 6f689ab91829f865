"""Celery's tracer with parts that cost less and do the same.

The tracer itself is Celery's. What it calls for each task is replaced here: the request's context,
which looks for custom headers by taking all known ones away, one by one; two stacks that say what
the current task is, each a lookup by greenlet behind three calls; and the text of the result. The
function of the task is called by way of something that keeps what part of its target a job is in.
"""

from __future__ import annotations

from typing import Any

from celery import _state
from celery.app import task as celery_task
from celery.app import trace
from celery.utils import threads
from celery.utils.saferepr import saferepr

from hybrid._rust import TaskFunction
from hybrid.hubs.base import getcurrent
from hybrid.patches import celery as patches
from hybrid.worker.execution.job import AFTER, BEFORE, INSIDE, Job, Runner

#: Sets of headers that are remembered for having no custom ones among them.
_KNOWN_LIMIT = 1024
#: Texts of results that are no longer than this are never cut.
_SHORT = 64


class Context(celery_task.Context):  # type: ignore[misc]
    """Celery's context, which remembers which sets of headers have nothing custom in them."""

    def __init__(self, request: Any = (), **options: Any) -> None:
        self.update(request, **options)
        fields = self.__dict__
        if fields.get("headers") is not None:
            return
        names = (*request, *options) if type(request) is dict else None
        if names in _without_custom_headers:
            fields["headers"] = None
            return
        fields["headers"] = found = self._get_custom_headers(request, **options)
        if found is None and names and len(_without_custom_headers) < _KNOWN_LIMIT:
            _without_custom_headers.add(names)


_without_custom_headers: set[tuple[Any, ...]] = set()


class GreenStack(threads._LocalStack):  # type: ignore[misc]
    """Celery's stack of current tasks or requests, each greenlet's kept by the greenlet itself."""

    #: The attribute of greenlets that holds their stack.
    _name: str

    @classmethod
    def take_over(cls, stack: Any) -> None:
        """Make a stack of Celery's, which is empty, one of this class.

        It stays the object that it is, because others know it already.
        """
        if type(stack) is threads._LocalStack:
            patches.STACK_NAMES.replace(stack, f"_celery_stack_{id(stack)}")
            patches.STACKS.specialise(stack, cls)

    def push(self, obj: Any) -> list[Any]:
        """Put ``obj`` on top, and return the stack."""
        fields = getcurrent().__dict__
        stack: list[Any] | None = fields.get(self._name)
        if stack is None:
            stack = fields[self._name] = [obj]
        else:
            stack.append(obj)
        return stack

    def pop(self) -> Any:
        """Remove what is on top and return it; ``None`` from an empty stack."""
        fields = getcurrent().__dict__
        stack: list[Any] | None = fields.get(self._name)
        if stack is None:
            return None
        if len(stack) == 1:
            del fields[self._name]
            return stack[0]
        return stack.pop()

    @property
    def top(self) -> Any:
        """What is on top, or ``None``."""
        stack = getcurrent().__dict__.get(self._name)
        return stack[-1] if stack else None

    @property
    def stack(self) -> list[Any]:
        """All that is on it, the first at the bottom."""
        stack: list[Any] | None = getcurrent().__dict__.get(self._name)
        return stack if stack is not None else []

    def __len__(self) -> int:
        return len(getcurrent().__dict__.get(self._name, ()))

    def __release_local__(self) -> None:
        getcurrent().__dict__.pop(self._name, None)


def _saferepr(value: Any, maxlen: int | None = None, *args: Any, **options: Any) -> str:
    kind = type(value)
    if (value is None or kind is bool or (kind is int and -(2**63) <= value < 2**63)) and (
        maxlen is None or maxlen >= _SHORT
    ):
        return repr(value)
    text: str = saferepr(value, maxlen, *args, **options)
    return text


def speed_up(app: Any) -> None:
    """Have the tracers that are built from now on use what this module has."""
    patches.TRACE_CONTEXT.replace(trace, Context)
    patches.TRACE_SAFEREPR.replace(trace, _saferepr)
    GreenStack.take_over(_state._task_stack)
    for task in app.tasks.values():
        GreenStack.take_over(task.request_stack)


def explain(app: Any) -> str | None:
    """Say what of this module is not in use at the moment, if something is not."""
    causes = []
    if trace.Context is not Context:
        causes.append("celery.app.trace.Context has been replaced")
    if trace.saferepr is not _saferepr:
        causes.append("celery.app.trace.saferepr has been replaced")
    foreign = sorted(name for name in app.tasks if name not in _telling)
    if foreign:
        causes.append(f"{len(foreign)} tasks without Celery's own tracer: {', '.join(foreign)}")
    return "; ".join(causes) or None


# -- the function of a task


#: The names of tasks whose tracers move :attr:`Job.part` on.
_telling: set[str] = set()


def tell_of_functions(app: Any) -> None:
    """Have the tracers that there are now move on what part of its target a job is in.

    That of a task without Celery's own tracer does not, and its whole target is ended by limits.
    """
    for name, task in app.tasks.items():
        cell = _find_function(task.__trace__)
        if cell is None:
            _telling.discard(name)
        else:
            _telling.add(name)
            if type(cell.cell_contents) is not TaskFunction:
                cell.cell_contents = TaskFunction(
                    cell.cell_contents, getcurrent, BEFORE, INSIDE, AFTER
                )


def _find_function(tracer: Any) -> Any:
    """Return the cell in which Celery's tracer has the function of its task, under all wrappers."""
    while tracer is not None:
        names = getattr(getattr(tracer, "__code__", None), "co_freevars", ())
        if "fun" in names and "push_request" in names:
            return tracer.__closure__[names.index("fun")]
        tracer = getattr(tracer, "__wrapped__", None)
    return None


def enter(slot: Runner) -> None:
    """Let the functions of tasks in the calling greenlet know ``slot``, which runs their jobs."""
    getcurrent().__dict__["_slot"] = slot


def in_slot() -> bool:
    """Tell whether the calling greenlet runs jobs."""
    return "_slot" in getcurrent().__dict__


def comes_to_function(job: Job) -> bool:
    """Tell whether the target of ``job``, which has begun, will move :attr:`Job.part` on."""
    return job.target in (trace.fast_trace_task, trace.trace_task_ret) and job.args[0] in _telling
