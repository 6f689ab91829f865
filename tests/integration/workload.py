"""The project of the integration tests: tasks that strain a pool and write down what happened.

Its settings come from the test.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable

import billiard
import kombu
from celery import Celery, Task, current_task, signals
from celery._state import _task_stack
from celery.exceptions import Reject, SoftTimeLimitExceeded
from celery.result import allow_join_result
from celery.utils.log import get_task_logger
from harness.journal import Journal
from harness.worker import SETTINGS_VARIABLE

app = Celery("workload")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))
journal = Journal(app.conf.result_backend)

_local = threading.local()
_variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")
_counts = {"locals": 0}


@app.task(name="quick")
def quick(number: int) -> int:
    return number


@app.task(name="fail")
def fail(why: str) -> None:
    raise ValueError(why)


@app.task(name="channel_class")
def channel_class() -> str:
    """Say which class of channel a connection of this worker has."""
    with app.connection_for_write() as connection:
        cls = type(connection.default_channel)
    return f"{cls.__module__}.{cls.__qualname__}"


@app.task(name="spread")
def spread(tag: str, number: int, children: int) -> None:
    """Publish ``children`` numbered tasks."""
    for child in range(children):
        count.delay(tag, number * children + child)


@app.task(name="spread_when_told")
def spread_when_told(tag: str, number: int, children: int) -> None:
    """Publish numbered tasks, once the journal says so."""
    journal.write(tag, "waiting")
    while not journal.count(f"{tag}.told"):
        time.sleep(0.01)
    journal.write(tag, "publishing")
    for child in range(children):
        count.delay(tag, number * children + child)


@app.task(name="squeeze")
def squeeze(queue: str, arguments: dict[str, Any]) -> str:
    """Publish to a queue with these arguments; return what comes of it."""
    target = kombu.Queue(queue, queue_arguments=arguments, auto_delete=False)
    try:
        app.send_task("quick", (1,), queue=target, retry=False)
    except Exception as exc:
        return type(exc.__cause__).__name__
    return "published"


@app.task(name="steer")
def steer(how: str, number: int) -> Any:
    """Command the worker, or publish, in the way of that name; return what comes of it."""
    return STEERS[how](number)


def _inside(hold: Callable[[], Any], steer: Callable[[int], Any]) -> Callable[[int], Any]:
    """Do ``steer`` while holding something, from after a switch to all the others on."""

    def run(number: int) -> Any:
        with hold():
            time.sleep(0.005)
            return steer(number)

    return run


def _ping(number: int) -> Any:
    return app.control.ping(timeout=10, limit=1)


def _call(number: int) -> Any:
    return quick.delay(number).id


def _call_alone(number: int) -> Any:
    """Publish what is not published with others, on AMQP."""
    return quick.apply_async((number,), expires=60, expiration=60).id


def _call_a_topic(number: int) -> Any:
    name = f"{app.conf.task_default_queue}.topic{number}"
    exchange = kombu.Exchange(name, type="topic", durable=False, auto_delete=True)
    target = kombu.Queue(
        name, exchange, routing_key="a.b", max_priority=5, auto_delete=True, expires=60
    )
    return quick.apply_async((number,), queue=target, priority=3).id


def _hold_connection() -> Any:
    return app.pool.acquire(block=True)


STEERS: dict[str, Callable[[int], Any]] = {
    "ping": _ping,
    "active": lambda _: list(app.control.inspect(timeout=10, limit=1).active() or ()),
    "revoke": lambda number: app.control.revoke(f"nobody{number}"),
    "rate_limit": lambda _: app.control.rate_limit("quick", "0", reply=True, timeout=10, limit=1),
    "call alone": _call_alone,
    "call a topic": _call_a_topic,
    "ping with a connection": _inside(_hold_connection, _ping),
    "ping with a producer": _inside(app.producer_or_acquire, _ping),
    "call with a connection": _inside(_hold_connection, _call),
    "call alone with a connection": _inside(_hold_connection, _call_alone),
    "call with a producer": _inside(app.producer_or_acquire, _call),
    "call alone with a producer": _inside(app.producer_or_acquire, _call_alone),
}


@app.task(name="hold")
def hold(tag: str, seconds: float) -> None:
    """Hold a connection and a producer, and use both."""
    with app.connection_or_acquire() as connection, app.producer_or_acquire() as producer:
        connection.default_channel  # noqa: B018  which opens it
        producer.publish({}, routing_key=tag, expiration=1)
        journal.write(tag, "holding")
        time.sleep(seconds)


@app.task(name="vanish")
def vanish(tag: str) -> None:
    """End the worker process without further ado."""
    journal.write(tag, "vanishing")
    os._exit(3)


@app.task(name="late_count", acks_late=True)
def late_count(tag: str, number: int) -> None:
    """Say that this number ran, and be acknowledged after that."""
    time.sleep(0.005)
    journal.write(tag, "ran", number=number)


@app.task(name="count")
def count(tag: str, number: int) -> None:
    """Say that this number ran, without a result."""
    journal.write(tag, "ran", number=number)


@app.task(name="fork")
def fork(tag: str, number: int, children: int, how: str, ending: str) -> str:
    """Have children that sleep before they end, and write down how they ended."""
    journal.write(tag, "ran", number=number)
    if how == "os.fork":
        pids = []
        for _ in range(children):
            pid = os.fork()
            if pid == 0:
                return _end_child(tag, ending)
            pids.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    elif how == "preexec_fn":
        codes = [
            subprocess.run(["true"], preexec_fn=_sleep_in_child, check=False).returncode
            for _ in range(children)
        ]
    elif how == "executor":
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(4, mp_context=context) as executor:
            codes = list(executor.map(_return_in_child, [0] * children))
    else:
        module = multiprocessing if how == "multiprocessing" else billiard
        process = module.get_context("fork").Process
        started = [process(target=_end_child, args=(tag, ending)) for _ in range(children)]
        for child in started:
            child.start()
        for child in started:
            if ending == "terminated":
                child.terminate()
            child.join()
        codes = [child.exitcode for child in started]
    journal.write(tag, "ended", number=number, codes=codes, ending=ending)
    return "parent"


@app.task(name="fork_and_reject", acks_late=True, acks_on_failure_or_timeout=False)
def fork_and_reject(tag: str, ending: str) -> str:
    """Have a child that ends in the same task, and then have the message delivered once more."""
    journal.write(tag, "ran", pid=os.getpid())
    if journal.count(tag) > 1:
        return "second time"
    pid = os.fork()
    if pid == 0:
        return _end_child(tag, ending)
    os.waitpid(pid, 0)
    raise Reject(requeue=True)


def _sleep_in_child() -> None:
    time.sleep(0.2)


def _return_in_child(code: int) -> int:
    time.sleep(0.2)
    return code


def _end_child(tag: str, ending: str) -> str:
    time.sleep(0.2)
    if ending == "os._exit":
        os._exit(3)
    elif ending == "sys.exit":
        sys.exit(4)
    elif ending == "raise":
        raise ValueError("in the child")
    elif ending == "call":
        count.delay(f"{tag} called", os.getpid())
    elif ending == "wait for a result":
        with allow_join_result():
            assert quick.delay(7).get(timeout=10) == 7
    elif ending == "use the backend":
        app.backend.client.rpush("from children", os.getpid())
    elif ending == "log":
        get_task_logger(__name__).warning("from the child %d", os.getpid())
    elif ending == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    elif ending == "terminated":
        time.sleep(10)
    return "child"


@app.task(name="bystander")
def bystander(tag: str, seconds: float) -> None:
    """Sleep while others fork, and write down in which process it goes on."""
    journal.write(tag, "began", pid=os.getpid())
    try:
        time.sleep(seconds)
        journal.write(tag, "went on", pid=os.getpid())
    finally:
        journal.write(tag, "finally", pid=os.getpid())


@app.task(name="nap", bind=True)
def nap(self: Task, tag: str, seconds: float) -> str:
    journal.write(tag, "napping", id=self.request.id)
    time.sleep(seconds)
    journal.write(tag, "woke", id=self.request.id)
    return "slept"


@app.task(name="late_nap", bind=True, acks_late=True)
def late_nap(self: Task, tag: str, seconds: float) -> str:
    journal.write(tag, "napping", id=self.request.id)
    time.sleep(seconds)
    journal.write(tag, "woke", id=self.request.id)
    return "slept"


@app.task(name="guarded_nap", bind=True)
def guarded_nap(self: Task, tag: str, seconds: float) -> str:
    """Sleep, and write down that the ``finally`` block ran."""
    journal.write(tag, "napping", id=self.request.id)
    try:
        time.sleep(seconds)
    finally:
        journal.write(tag, "finally", id=self.request.id)
    return "slept"


@app.task(name="soft_nap", bind=True)
def soft_nap(self: Task) -> tuple[str, float]:
    """Return how late the soft limit came."""
    began = time.monotonic()
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        return "soft", time.monotonic() - began
    return "slept", time.monotonic() - began


#: When the tasks that ignore their soft limit ended, in seconds after their start.
_ends: list[float] = []


@app.task(name="deaf_nap", bind=True)
def deaf_nap(self: Task) -> str:
    """Ignore the soft limit, and remember when the hard one came."""
    began = time.monotonic()
    try:
        while True:
            try:
                time.sleep(60)
                return "slept"
            except SoftTimeLimitExceeded:
                continue
    finally:
        _ends.append(time.monotonic() - began)


@app.task(name="deaf_ends")
def deaf_ends() -> list[float]:
    return _ends


def _late_deaf_nap(self: Task, tag: str) -> str:
    journal.write(tag, "run", id=self.request.id)
    if len([entry for entry in journal.entries(tag) if entry["id"] == self.request.id]) > 1:
        return "second time"
    time.sleep(60)
    return "slept"


app.task(
    _late_deaf_nap,
    name="late_deaf_nap_acked",
    bind=True,
    acks_late=True,
    acks_on_failure_or_timeout=True,
)
app.task(
    _late_deaf_nap,
    name="late_deaf_nap_requeued",
    bind=True,
    acks_late=True,
    acks_on_failure_or_timeout=False,
)


@app.task(name="probe_locals", bind=True)
def probe_locals(self: Task) -> list[Any]:
    """Report whatever an earlier task left behind, and leave something behind.

    Returns:
        The number of thread-locals so far, and the list of leaks seen.
    """
    leaks = []
    if not hasattr(_local, "mark"):
        _counts["locals"] += 1
        _local.mark = _counts["locals"]
    if _variable.get() != "clean":
        leaks.append(f"contextvar {_variable.get()}")
    _variable.set(self.request.id)
    for moment in ("before", "after"):
        if current_task.request.id != self.request.id:
            leaks.append(f"current_task {moment} switch")
        if len(_task_stack.stack) != 1:
            leaks.append(f"task stack {moment} switch: {len(_task_stack.stack)}")
        # The stack of a task object holds its own class-level default besides our request.
        if len(self.request_stack.stack) != 1:
            leaks.append(f"request stack {moment} switch: {len(self.request_stack.stack)}")
        if moment == "before":
            time.sleep(0.002)
    if _variable.get() != self.request.id:
        leaks.append("contextvar lost")
    return [_counts["locals"], leaks]


@app.task(name="leak_timeout")
def leak_timeout(hub: str, seconds: float) -> str:
    """Raise the hub's own time-out in a task, as user code that forgot to catch it does."""
    if hub == "gevent":
        from gevent import Timeout
    else:
        from eventlet import Timeout
    with Timeout(seconds):
        time.sleep(30)
    return "slept"


@signals.task_failure.connect(weak=False)
def _failed(sender: Any, task_id: str, exception: Any, **_: Any) -> None:
    app.backend.client.hincrby("failed-signals", type(exception).__name__)


@signals.task_unknown.connect(weak=False)
def _unknown(sender: Any, name: str, **_: Any) -> None:
    journal.write("unknown", "unknown", name=name)


_starts: list[tuple[int, float]] = []
_running = {"now": 0, "most": 0}


@app.task(name="start")
def start(number: int) -> None:
    """Write down when this one starts, and how many run meanwhile."""
    _starts.append((number, time.time()))
    _running["now"] += 1
    _running["most"] = max(_running.values())
    time.sleep(0.005)
    _running["now"] -= 1


@app.task(name="read_starts")
def read_starts() -> dict[str, Any]:
    return {"starts": _starts, "most": _running["most"]}


def _ask(kind: str, number: int, producer: Any) -> Any:
    """Do one thing that the broker answers, and return what it has to be."""
    channel = producer.channel
    name = f"{app.conf.task_default_queue}.own{number}"
    if kind == "look":
        return channel.queue_declare(name, passive=True).message_count
    if kind == "declare":
        return channel.queue_declare(name, durable=True, auto_delete=False).queue
    if kind == "purge":
        return channel.queue_purge(f"{app.conf.task_default_queue}.empty")
    raise ValueError(kind)


#: What tasks that may be ended at any moment have been told wrongly.
_wrong: list[Any] = []
#: The errors that they got instead of an answer.
_refused: list[str] = []


@app.task(name="ask")
def ask(number: int) -> str:
    """Ask the broker for queues of one's own until one is ended; note what is another one's."""
    wanted = {"look": number, "declare": f"{app.conf.task_default_queue}.own{number}", "purge": 0}
    try:
        while True:
            try:
                with app.amqp.producer_pool.acquire(block=True) as producer:
                    for kind, want in wanted.items():
                        got = _ask(kind, number, producer)
                        if got != want:
                            _wrong.append([kind, number, got])
            except SoftTimeLimitExceeded:
                raise
            except Exception as exc:
                _refused.append(repr(exc))
                time.sleep(0.01)
    except SoftTimeLimitExceeded:
        return "ended"


#: Numbers that the broker has confirmed, and the errors of others.
_published: dict[str, list[Any]] = {"confirmed": [], "errors": []}
_is_enough = threading.Event()


@app.task(name="publish_confirmed", bind=True)
def publish_confirmed(self: Task, number: int, times: int, exchange: str = "") -> str:
    """Publish ``times`` numbers; note which of them were confirmed, and what came of the others."""
    if exchange:
        target: dict[str, Any] = {
            "exchange": exchange,
            "routing_key": "key",
            "declare": [kombu.Exchange(exchange, "fanout", durable=True)],
        }
    else:
        target = {"routing_key": f"{app.conf.task_default_queue}.published"}
    try:
        for message in range(number * times, (number + 1) * times):
            if _is_enough.is_set():
                break
            try:
                with app.amqp.producer_pool.acquire(block=True) as producer:
                    producer.publish(message, **target)
                _published["confirmed"].append(message)
            except SoftTimeLimitExceeded:
                raise
            except Exception as exc:
                _published["errors"].append(repr(exc))
    except SoftTimeLimitExceeded:
        return "ended"
    return "done"


@app.task(name="end_publishing")
def end_publishing() -> None:
    """Let those who publish be done, however many numbers they have left."""
    _is_enough.set()


@app.task(name="read_interrupted")
def read_interrupted() -> dict[str, Any]:
    return {"wrong": _wrong, "refused": _refused, **_published}


@app.task(name="count_greenlets")
def count_greenlets() -> int:
    """Count the greenlets that have started and not ended."""
    from greenlet import greenlet

    gc.collect()
    return sum(isinstance(one, greenlet) and bool(one) and not one.dead for one in gc.get_objects())
