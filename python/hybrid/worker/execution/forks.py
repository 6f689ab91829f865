"""How a child ends that a task has forked, when it comes to the end of the task.

The task is its parent's, as are its outcome, its message, and whatever is to be called after it.
So the child ends there, as a process that returns or raises. Until then all is as it was, and no
task that does not fork pays for it.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from celery import current_task
from celery.exceptions import Retry

from hybrid.hubs.forking import end_child
from hybrid.patches import celery as patches


def end_with_job(_: Any) -> NoReturn:
    """End the child, in place of settling the job, with what has left the target."""
    end_child(sys.exc_info()[1])


def forget_outcome() -> None:
    """Let the child end where Celery would do what comes after the task that has forked it."""
    if not current_task:
        return  # forked by something else
    task = current_task._get_current_object()
    request, backend = task.request, task.backend
    # Celery calls these before it stores the result, which is where the child ends.
    request.update(callbacks=None, errbacks=None, chain=None, chord=None)

    def end_instead_of(mark: Any) -> Any:
        def end_or_mark(task_id: Any, outcome: Any, *args: Any, **options: Any) -> Any:
            if task_id == request.id:
                is_error = isinstance(outcome, Exception) and not isinstance(outcome, Retry)
                end_child(outcome if is_error else None)
            return mark(task_id, outcome, *args, **options)

        return end_or_mark

    for patch in (patches.MARK_DONE, patches.MARK_FAILURE, patches.MARK_RETRY):
        patch.replace(backend, end_instead_of(getattr(backend, patch.name)))
