"""What is replaced of Celery."""

from __future__ import annotations

from hybrid.patches import Patch

# -- the command line, and what a worker is made of

POOL_NAMES = Patch(
    "celery.concurrency.ALIASES",
    "our pools are found by the names that users type after -P",
    since="0.1",
    is_new=True,
)
PATCHER = Patch(
    "celery.maybe_patch_concurrency",
    "Celery patches for the literal names of its own pools alone",
    since="0.1",
)
POOL_OPTION = Patch(
    "celery.bin.worker.WORKERS_POOL.__class__",
    "-P takes our pools where no start-up file has given Celery their names",
    since="0.1",
)
DETACH = Patch(
    "celery.bin.worker.detach",
    "-D goes to the background as `python -m hybrid`, where that was typed",
    since="0.1",
)
BACKENDS = Patch(
    "celery.app.backends.BACKEND_ALIASES",
    "results travel together, on one connection",
    since="0.1",
)
SIGNALS = Patch(
    "celery.platforms.signals.__class__",
    "handlers of signals that wait run in greenlets, not on top of the hub",
    since="0.1",
)
SIGNALS_ENDING = Patch(
    "celery.platforms.signals.ending",
    "the worker that these handlers are to end",
    since="0.1",
    is_new=True,
)
RESTART = Patch(
    "celery.apps.worker._reload_current_worker",
    "SIGHUP starts what was started, also `python -m celery`, and --statedb is written before",
    since="0.1",
)
CONSUMER = Patch(
    "celery.apps.worker.Worker().consumer_cls",
    "our consumer takes messages and starts tasks many at a time",
    since="0.1",
)
BLUEPRINT = Patch(
    "celery.apps.worker.Worker().Blueprint",
    "-B runs beat in a greenlet; Celery would fork",
    since="0.1",
)

# -- running tasks

TRACE_CONTEXT = Patch(
    "celery.app.trace.Context",
    "it remembers which headers are known ones",
    since="0.1",
)
TRACE_SAFEREPR = Patch(
    "celery.app.trace.saferepr", "None and numbers need no pretty-printer", since="0.1"
)
TRACE_INFO = Patch(
    "celery.app.trace.info", "the INFO lines of tasks are written in groups", since="0.1"
)
STACKS = Patch(
    "celery.utils.threads._LocalStack().__class__",
    "each greenlet keeps its own stack of current tasks",
    since="0.1",
)
STACK_NAMES = Patch(
    "celery.utils.threads._LocalStack()._name",
    "the attribute of greenlets that holds their stack",
    since="0.1",
    is_new=True,
)

# -- results

APP_BACKEND = Patch(
    "celery.app.base.Celery()._backend_cache", "all greenlets share one result backend", since="0.1"
)
BACKEND_IS_SAFE = Patch(
    "celery.backends.base.Backend().thread_safe",
    "all greenlets share one result backend",
    since="0.1",
)
TASK_BACKEND = Patch(
    "celery.app.task.Task()._backend",
    "a task has the shared backend, and need not ask the app at every mention",
    since="0.1",
)

# -- children that tasks fork

_IN_A_CHILD = "a forked child ends where its parent stores the outcome of the task"
MARK_DONE = Patch("celery.backends.base.Backend().mark_as_done", _IN_A_CHILD, since="0.1")
MARK_FAILURE = Patch("celery.backends.base.Backend().mark_as_failure", _IN_A_CHILD, since="0.1")
MARK_RETRY = Patch("celery.backends.base.Backend().mark_as_retry", _IN_A_CHILD, since="0.1")

# -- calls of tasks

APP_POOL = Patch(
    "celery.app.base.Celery()._pool",
    "whoever holds a connection is never kept waiting for another one",
    since="0.1",
)
PRODUCER_POOL = Patch(
    "celery.app.amqp.AMQP()._producer_pool",
    "messages of many greenlets travel together",
    since="0.1",
)
SEND_TASK = Patch(
    "celery.app.base.Celery().send_task", "a shorter way for the plain call of a task", since="0.1"
)
SEND_MESSAGE = Patch(
    "celery.app.amqp.AMQP().send_task_message",
    "a shorter way for a JSON message to one queue",
    since="0.1",
)
CREATE_MESSAGE = Patch(
    "celery.app.amqp.AMQP().create_task_message",
    "the texts of arguments need no pretty-printer where they are short",
    since="0.1",
)

# -- events of tasks

_EVENTS = "celery.events.dispatcher.EventDispatcher()"
EVENTS_SEND = Patch(
    f"{_EVENTS}.send", "events of tasks are sent in groups, encoded in Rust", since="0.1"
)
EVENTS_BUFFERED = Patch(
    f"{_EVENTS}.on_send_buffered", "events that only Celery can encode join the group", since="0.1"
)
EVENTS_GROUP = Patch(f"{_EVENTS}.buffer_group", "events of tasks are sent in groups", since="0.1")
EVENTS_LIMIT = Patch(
    f"{_EVENTS}.buffer_limit", "Celery does not send a group in the middle of a task", since="0.1"
)
EVENTS_RECORD = Patch(
    f"{_EVENTS}.record", "a request records an event at half the cost", since="0.1", is_new=True
)
EVENTS_FLUSH = Patch(
    f"{_EVENTS}.flush_soon", "who has recorded an event has it sent", since="0.1", is_new=True
)
