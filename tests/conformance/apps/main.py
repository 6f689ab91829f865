"""The project that most conformance tests run: small tasks that write down what they saw.

It is written as a user would write it, and knows nothing of pools. Its settings come from the test.
"""

from __future__ import annotations

import json
import os
import time
from contextvars import ContextVar
from typing import Any

import kombu
from celery import Celery, Task, chain, chord, group, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.worker.request import Request
from celery.worker.strategy import default as default_strategy
from greenlet import GreenletExit
from harness.journal import Journal
from harness.worker import SETTINGS_VARIABLE

app = Celery("apps.main")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))
app.conf.beat_schedule = {
    "tick": {"task": "note", "schedule": 0.5, "args": ["beat", "tick"]},
}
journal = Journal(
    app.conf.result_backend if "redis" in app.conf.result_backend else app.conf.journal_url
)


class OddError(Exception):
    """An exception with two arguments that a user's project defines."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code


@app.task(name="add")
def add(x: Any, y: Any) -> Any:
    return x + y


@app.task(name="add_all")
def add_all(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="echo")
def echo(value: Any = None, **kwargs: Any) -> Any:
    return kwargs or value


@app.task(name="represent")
def represent(*args: Any) -> str:
    """Tell what came, with types that the JSON of a result would lose."""
    return repr(args)


@app.task(name="end_the_receiver")
def end_the_receiver() -> None:
    """A receiver of the signal that it is revoked ends the greenlet that it is called in."""


@app.task(name="note")
def note(tag: str, event: str, result: Any = None) -> Any:
    journal.write(tag, event)
    return result


@app.task(name="note_any")
def note_any(*args: Any, tag: str, event: str) -> None:
    journal.write(tag, event, args=args)


@app.task(name="nap", bind=True)
def nap(self: Task, seconds: float, result: Any = None) -> Any:
    journal.write(self.request.id, "napping")
    time.sleep(seconds)
    journal.write(self.request.id, "woke")
    return result


@app.task(name="hold", bind=True)
def hold(self: Task, tag: str) -> None:
    """Occupy a slot until the test says "go"."""
    redelivered = self.request.delivery_info["redelivered"]
    journal.write(tag, "holding", id=self.request.id, redelivered=redelivered)
    journal.wait_for(tag, "go", within=30)


@app.task(name="careful_nap", bind=True)
def careful_nap(self: Task, seconds: float) -> str:
    """Sleep, catch the soft limit, and run a ``finally`` block whatever happens."""
    journal.write(self.request.id, "napping")
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        journal.write(self.request.id, "soft limit")
        return "soft"
    finally:
        journal.write(self.request.id, "finally")
    return "slept"


@app.task(name="deaf_nap", bind=True)
def deaf_nap(self: Task, seconds: float) -> str:
    """Ignore the soft limit as often as it is raised."""
    journal.write(self.request.id, "napping")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            time.sleep(ends - time.monotonic())
        except SoftTimeLimitExceeded:
            journal.write(self.request.id, "ignored")
    return "slept"


@app.task(name="fail")
def fail(kind: str, *args: Any) -> None:
    kinds = {"ValueError": ValueError, "KeyError": KeyError, "OddError": OddError}
    raise kinds[kind](*args)


@app.task(name="fail_with_cause")
def fail_with_cause() -> None:
    try:
        {}["missing"]
    except KeyError as exc:
        raise ValueError("outer") from exc


@app.task(name="unpicklable")
def unpicklable() -> Any:
    return object()


@app.task(name="describe", bind=True)
def describe(self: Task, *args: Any, **kwargs: Any) -> dict[str, Any]:
    request = self.request
    return {
        "id": request.id,
        "args": list(request.args),
        "kwargs": dict(request.kwargs),
        "retries": request.retries,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "queue": request.delivery_info["routing_key"],
        "hostname": request.hostname,
        "priority": request.delivery_info.get("priority"),
        "eager": request.is_eager,
        "correlation_id": request.correlation_id,
        "timelimit": request.timelimit,
        "headers": request.headers,
        "task": request.task,
        "name": self.name,
        "stamps": getattr(request, "stamps", None),
        "group": request.group,
    }


@app.task(name="progress", bind=True)
def progress(self: Task, steps: int) -> str:
    for step in range(1, steps + 1):
        self.update_state(state="PROGRESS", meta={"done": step, "of": steps})
        journal.write(self.request.id, "step", backend=self.AsyncResult(self.request.id).state)
    journal.wait_for(self.request.id, "go on", within=10)
    return "complete"


_variable: ContextVar[str] = ContextVar("variable", default="unset")
_variable.set("by the project")


@app.task(name="read_variable", bind=True)
def read_variable(self: Task, retries: int = 0) -> str:
    """Return what the context had at the start, and leave something there."""
    found = _variable.get()
    _variable.set("by a task")
    if self.request.retries < retries:
        raise self.retry(countdown=0)
    return found


@app.task(name="retry_twice", bind=True, max_retries=5)
def retry_twice(self: Task) -> int:
    journal.write(self.request.id, "try", retries=self.request.retries)
    if self.request.retries < 2:
        raise self.retry(countdown=0.1, exc=ValueError("again"))
    return int(self.request.retries)


@app.task(name="retry_slowly", bind=True)
def retry_slowly(self: Task) -> int:
    journal.write(self.request.id, "try")
    if not self.request.retries:
        raise self.retry(countdown=2)
    return int(self.request.retries)


@app.task(name="retry_out", bind=True, max_retries=2, default_retry_delay=0.05)
def retry_out(self: Task) -> None:
    journal.write(self.request.id, "try", retries=self.request.retries)
    raise self.retry(exc=OddError(7, "gave up"))


@app.task(name="retry_plain", bind=True, max_retries=1, default_retry_delay=0.05)
def retry_plain(self: Task) -> None:
    journal.write(self.request.id, "try", retries=self.request.retries)
    raise self.retry()


@app.task(
    name="autoretry",
    bind=True,
    autoretry_for=(ConnectionError,),
    max_retries=3,
    retry_backoff=0.25,
    retry_backoff_max=1,
    retry_jitter=False,
)
def autoretry(self: Task, failures: int) -> int:
    journal.write(self.request.id, "try", retries=self.request.retries)
    if self.request.retries < failures:
        raise ConnectionError("flaky")
    return int(self.request.retries)


@app.task(
    name="autoretry_except",
    bind=True,
    autoretry_for=(Exception,),
    dont_autoretry_for=(KeyError,),
    max_retries=3,
    retry_backoff=False,
    default_retry_delay=0.05,
)
def autoretry_except(self: Task) -> None:
    journal.write(self.request.id, "try", retries=self.request.retries)
    raise KeyError("final")


@app.task(name="late_nap", bind=True, acks_late=True)
def late_nap(self: Task, seconds: float) -> str:
    journal.write(self.request.id, "napping", redelivered=self.request.delivery_info["redelivered"])
    time.sleep(seconds)
    return "slept"


@app.task(name="early_nap", bind=True)
def early_nap(self: Task, seconds: float) -> str:
    journal.write(self.request.id, "napping")
    time.sleep(seconds)
    return "slept"


@app.task(name="reject", bind=True, acks_late=True)
def reject(self: Task, requeue: bool, tag: str) -> str:
    seen = journal.count(tag)
    journal.write(tag, "run", redelivered=self.request.delivery_info["redelivered"])
    if not requeue or seen == 0:
        raise Reject("not now", requeue=requeue)
    return "second time"


@app.task(name="reject_once", bind=True, acks_late=True)
def reject_once(self: Task, tag: str) -> dict[str, Any]:
    """Refuse the message until a dead-letter exchange brings it; tell what it brought."""
    journal.write(tag, "run", redelivered=self.request.delivery_info["redelivered"])
    headers = self.request.headers or {}
    if "x-death" not in headers:
        raise Reject("not now", requeue=False)
    return headers


@app.task(name="reject_odd", acks_late=True)
def reject_odd(tag: str, number: int) -> None:
    """Refuse odd numbers, some at once and some a little later."""
    time.sleep(number % 4 / 100)
    journal.write(tag, "run", number=number)
    if number % 2:
        raise Reject("odd", requeue=False)


@app.task(name="ignore", bind=True)
def ignore(self: Task, state: str | None = None) -> None:
    journal.write(self.request.id, "run")
    if state is not None:
        self.update_state(state=state, meta={"by": "hand"})
    raise Ignore


@app.task(name="late_failure", bind=True, acks_late=True, acks_on_failure_or_timeout=False)
def late_failure(self: Task) -> None:
    journal.write(self.request.id, "run")
    raise ValueError("kept")


@app.task(
    name="late_deaf_nap",
    bind=True,
    acks_late=True,
    acks_on_failure_or_timeout=False,
    soft_time_limit=None,
    time_limit=1,
)
def late_deaf_nap(self: Task, seconds: float) -> str:
    redelivered = journal.count(self.request.id) > 0
    journal.write(self.request.id, "napping")
    if redelivered:
        return "second time"
    time.sleep(seconds)
    return "slept"


@app.task(name="worker_lost", bind=True, acks_late=True, reject_on_worker_lost=True)
def worker_lost(self: Task) -> str:
    from billiard.exceptions import WorkerLostError

    seen = journal.count(self.request.id)
    journal.write(self.request.id, "run")
    if seen == 0:
        raise WorkerLostError("as a prefork child would")
    return "second time"


@app.task(name="forgetful", ignore_result=True)
def forgetful(tag: str) -> str:
    journal.write(tag, "run")
    return "not stored"


@app.task(name="limited", bind=True)
def limited(self: Task, tag: str) -> None:
    journal.write(tag, "run")


@app.task(name="limited_4_s", bind=True, rate_limit="4/s")
def limited_4_s(self: Task, tag: str) -> None:
    journal.write(tag, "run")


@app.task(name="limited_1_h", bind=True, rate_limit="1/h")
def limited_1_h(self: Task, tag: str) -> None:
    journal.write(tag, "run")


@app.task(name="fan_out", bind=True)
def fan_out(self: Task, depth: int, tag: str) -> None:
    journal.write(tag, "run", depth=depth, root=self.request.root_id, parent=self.request.parent_id)
    if depth:
        for _ in range(2):
            fan_out.delay(depth - 1, tag)


@app.task(name="fan_out_by_priority")
def fan_out_by_priority(tag: str, queue: str, priorities: list[int]) -> None:
    """Publish one task for each of these priorities from inside a task."""
    for number, priority in enumerate(priorities):
        note.apply_async((tag, f"{priority} {number}"), queue=queue, priority=priority)


@app.task(name="delays")
def delays(tag: str, seconds: float) -> None:
    """Call a task with a countdown from inside a task."""
    note.apply_async((tag, "run"), countdown=seconds)
    journal.write(tag, "delayed")


@app.task(name="publishes")
def publishes(
    name: str, arguments: dict[str, Any] | None = None, options: dict[str, Any] | None = None
) -> str | None:
    """Publish to the queue of this name; return what comes of it, and where."""
    queue = kombu.Queue(name, queue_arguments=arguments, no_declare=arguments is None)
    try:
        note.apply_async(("nobody", "run"), queue=queue, **(options or {}))
    except Exception as exc:
        cause = exc.__cause__ or exc
        return f"{type(cause).__name__} {getattr(cause, 'reply_text', '')}".rstrip()
    return None


@app.task(name="asks_many")
def asks_many(numbers: list[int]) -> list[Any]:
    """Call a task for each number, and wait for all results, in the order of the calls."""
    from celery.result import allow_join_result

    results = [add.delay(number, 1000) for number in numbers]
    with allow_join_result():
        return [result.get(timeout=20) for result in results]


@app.task(name="asks_and_fails")
def asks_and_fails(text: str) -> str:
    """Return the error of a task that was called here."""
    from celery.result import allow_join_result

    with allow_join_result():
        return repr(fail.delay("ValueError", text).get(timeout=20, propagate=False))


@app.task(name="waits_for_child")
def waits_for_child(x: int, y: int) -> int:
    from celery.result import allow_join_result

    with allow_join_result():
        return int(add.delay(x, y).get(timeout=10)) + 100


@app.task(name="waits_for_group")
def waits_for_group(count: int) -> int:
    from celery.result import allow_join_result

    with allow_join_result():
        return sum(group(add.s(number, 1) for number in range(count))().get(timeout=10))


@app.task(name="replaced", bind=True)
def replaced(self: Task, x: int) -> None:
    raise self.replace(chain(add.s(x, 1), add.s(10)))


@app.task(name="replaced_by_chord", bind=True)
def replaced_by_chord(self: Task, count: int) -> None:
    raise self.replace(chord([add.s(number, 1) for number in range(count)], add_all.s()))


@app.task(name="adds_to_chord", bind=True)
def adds_to_chord(self: Task, x: int) -> int:
    self.add_to_chord(add.s(x, 100))
    return x


@app.task(name="eager_inside", bind=True)
def eager_inside(self: Task) -> dict[str, Any]:
    outer = self.request.id
    applied = describe.apply(args=(1,))
    inner = applied.get()
    return {
        "eager": inner["eager"],
        "inner is outer": inner["id"] == outer,
        "restored": self.request.id == outer,
        "class": type(applied).__name__,
    }


@app.task(name="delay_inside", bind=True)
def delay_inside(self: Task) -> dict[str, Any]:
    result = add.delay(2, 3)
    return {"class": type(result).__name__, "value": result.result}


@app.task(name="which_pool", bind=True)
def which_pool(self: Task) -> dict[str, Any]:
    """Tell where this runs, for the test that mixes two workers."""
    return {"pid": os.getpid(), "node": self.request.hostname}


@app.task(name="burn", bind=True)
def burn(self: Task, rounds: int) -> dict[str, Any]:
    total = sum(number * number for number in range(rounds))
    return {"pid": os.getpid(), "node": self.request.hostname, "total": total}


# --- custom classes -------------------------------------------------------------------------------


class NotingRequest(Request):
    """The `Request` of the Celery manual, which writes to the journal."""

    def on_accepted(self, pid: int, time_accepted: float) -> Any:
        journal.write(self.id, "request: accepted")
        return super().on_accepted(pid, time_accepted)

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        journal.write(self.id, "request: success")
        return super().on_success(failed__retval__runtime, **kwargs)

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> Any:
        journal.write(self.id, "request: failure", exc=repr(exc_info.exception))
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        journal.write(self.id, "request: timeout", soft=soft, timeout=timeout)
        return super().on_timeout(soft, timeout)

    def on_retry(self, exc_info: Any) -> Any:
        journal.write(self.id, "request: retry")
        return super().on_retry(exc_info)


class NotingTask(Task):
    """A task class with every handler a user can define."""

    Request = NotingRequest

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        journal.write(task_id, "task: before_start")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        journal.write(task_id, "task: on_success", retval=retval)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        journal.write(task_id, "task: on_failure", exc=repr(exc))

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        journal.write(task_id, "task: on_retry", exc=repr(exc))

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        journal.write(task_id, "task: after_return", status=status)


@app.task(name="noting", base=NotingTask, bind=True, default_retry_delay=0.05)
def noting(self: Task, what: str) -> str:
    if what == "fail":
        raise ValueError("noted")
    if what == "retry" and self.request.retries == 0:
        raise self.retry()
    if what == "nap":
        time.sleep(4)
    return what


def noting_strategy(task: Task, app: Celery, consumer: Any, **kwargs: Any) -> Any:
    """Write down every message before Celery's own strategy handles it."""
    handle = default_strategy(task, app, consumer, **kwargs)

    def on_message(
        message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **options: Any
    ) -> Any:
        journal.write(message.headers["id"], "strategy: message")
        return handle(message, body, ack, reject, callbacks, **options)

    return on_message


@app.task(name="with_strategy", Strategy="apps.main:noting_strategy")
def with_strategy(x: int) -> int:
    return x * 2


# --- signals --------------------------------------------------------------------------------------


@signals.task_received.connect(weak=False)
def _received(sender: Any, request: Any, **_: Any) -> None:
    journal.write(f"signals:{request.id}", "received", name=request.name)


@signals.task_prerun.connect(weak=False)
def _prerun(sender: Any, task_id: str, args: Any, kwargs: Any, **_: Any) -> None:
    journal.write(f"signals:{task_id}", "prerun", name=sender.name, args=args, kwargs=kwargs)


@signals.task_postrun.connect(weak=False)
def _postrun(sender: Any, task_id: str, retval: Any, state: str, **_: Any) -> None:
    journal.write(f"signals:{task_id}", "postrun", state=state, retval=retval)


@signals.task_success.connect(weak=False)
def _success(sender: Any, result: Any, **_: Any) -> None:
    journal.write(f"signals:{sender.request.id}", "success", result=result)


@signals.task_failure.connect(weak=False)
def _failure(sender: Any, task_id: str, exception: Any, einfo: Any, **_: Any) -> None:
    journal.write(f"signals:{task_id}", "failure", exc=type(exception).__name__, einfo=bool(einfo))


@signals.task_retry.connect(weak=False)
def _retry(sender: Any, request: Any, reason: Any, einfo: Any, **_: Any) -> None:
    journal.write(f"signals:{request.id}", "retry", reason=str(reason))


@signals.task_revoked.connect(weak=False)
def _revoked(
    sender: Any, request: Any, terminated: Any, signum: Any, expired: Any, **_: Any
) -> None:
    journal.write(f"signals:{request.id}", "revoked", terminated=terminated, expired=expired)
    if sender.name == "end_the_receiver":
        raise GreenletExit


@signals.task_unknown.connect(weak=False)
def _unknown(sender: Any, name: str, id: str, message: Any, exc: Any, **_: Any) -> None:
    journal.write(f"signals:{id}", "unknown", name=name, exc=type(exc).__name__)


@signals.task_rejected.connect(weak=False)
def _rejected(sender: Any, message: Any, exc: Any, **_: Any) -> None:
    journal.write(
        "signals:rejected", "rejected", body=repr(message.body)[:200], exc=type(exc).__name__
    )


@signals.worker_ready.connect(weak=False)
def _worker_ready(sender: Any, **_: Any) -> None:
    journal.write("signals:worker", "ready")


@signals.worker_shutdown.connect(weak=False)
def _worker_shutdown(sender: Any, **_: Any) -> None:
    journal.write("signals:worker", "shutdown")


for _name in ("started", "preshutdown", "postshutdown"):
    getattr(signals, f"eventlet_pool_{_name}").connect(
        lambda sender, _name=_name, **_: journal.write("signals:pool", _name), weak=False
    )


@signals.eventlet_pool_apply.connect(weak=False)
def _pool_apply(sender: Any, target: Any, args: Any, kwargs: Any, **_: Any) -> None:
    journal.write("signals:pool-apply", "apply")
