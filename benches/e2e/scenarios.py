"""What is measured: the scenarios, and the pools they run on."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

SETTINGS_VARIABLE = "HYBRID_BENCH_SETTINGS"
"""Environment variable in which the worker's app finds its Celery settings, as JSON."""

PEER_VARIABLE = "HYBRID_BENCH_PEER"
REDIS_VARIABLE = "HYBRID_BENCH_REDIS"
"""Environment variables in which the apps of other workers find their name and their Redis."""

STAYS_VARIABLE = "HYBRID_BENCH_STAYS"
"""Environment variable in which a worker finds the file for the calls that it has counted."""

QUEUE = "bench"
DRAIN = "bench.drain"
"""Where ``publish10`` publishes to; nobody consumes it."""

REPLIES = "bench.replies"
"""Where ``rpc://`` sends results; nobody consumes it."""

PUBLISHED_PER_TASK = 10

POOLS = ("prefork", "threads", "gevent", "eventlet", "hybrid.gevent", "hybrid.eventlet")


@dataclass(frozen=True)
class Scenario:
    """One kind of load.

    Attributes:
        name: What the command line and the results call it.
        what: One line for people.
        kind: ``drain``: a full queue is drained. ``eta``: tasks with an ETA reach an idle worker.
            ``held``: tasks wait for an hour, and others are sent behind them. ``flood``: waiting
            tasks are all due at once. ``paced``: tasks are sent at a fixed rate. ``idle``: nothing
            is sent for a while. ``crawl``: the feed crawler of the examples.
        task: Which task of the app.
        tasks: How many at most; fewer are measured where a pool does not do them in time. Feeds, in
            a ``crawl``.
        payload: Bytes of a second argument.
        concurrency: What follows ``-c`` on green pools.
        settings: Celery settings.
        options: Options of the worker.
        results: Results are kept in Redis, or not at all, or by ``rpc://``.
        loglevel: What follows ``-l``.
        rate: Tasks per second of a ``paced`` scenario, which sends for as long as a load may take.
        brokers: Where it makes sense.
    """

    name: str
    what: str
    kind: str = "drain"
    task: str = "noop"
    tasks: int = 40_000
    payload: int = 0
    concurrency: int = 1000
    settings: dict[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    results: str = ""
    loglevel: str = "WARNING"
    rate: float = 0
    brokers: tuple[str, ...] = ("redis", "rabbitmq")


_ALL = (
    Scenario("noop", "no-op, results off"),
    Scenario(
        "noop_quiet",
        "no-op, results off, --without-gossip --without-heartbeat",
        options=("--without-gossip", "--without-heartbeat"),
    ),
    Scenario("results", "no-op, Redis results", results="redis"),
    Scenario(
        "results_thread_safe",
        "no-op, Redis results, result_backend_thread_safe",
        results="redis",
        settings={"result_backend_thread_safe": True},
    ),
    Scenario("results_rpc", "no-op, rpc:// results", results="rpc", brokers=("rabbitmq",)),
    Scenario(
        "connections",
        "no-op, Redis results, 20 000 tasks on -c 500",
        results="redis",
        concurrency=500,
        tasks=20_000,
    ),
    Scenario("sleep10", "sleeps 10 ms, -c 2000", task="sleep10", concurrency=2000),
    Scenario(
        "sleep10_late",
        "sleeps 10 ms, -c 2000, acks_late, --without-gossip --without-heartbeat",
        task="sleep10",
        concurrency=2000,
        settings={"task_acks_late": True},
        options=("--without-gossip", "--without-heartbeat"),
        brokers=("rabbitmq",),
    ),
    Scenario("args1k", "no-op, 1 KB of arguments", payload=1_000),
    Scenario("args100k", "no-op, 100 KB of arguments", payload=100_000, tasks=2_000),
    Scenario("acks_late", "no-op, acks_late", settings={"task_acks_late": True}),
    Scenario("events", "no-op, -E", options=("-E",)),
    Scenario("loginfo", "no-op, -l INFO", loglevel="INFO"),
    Scenario("eta1", "no-op, ETA in 1 s", kind="eta", tasks=10_000),
    Scenario(
        "held",
        "no-op, ETA in an hour, then 1000 plain no-ops and a revoke",
        kind="held",
        tasks=200_000,
    ),
    Scenario("flood", "no-op, all with one ETA", kind="flood", tasks=50_000),
    Scenario("publish10", "each publishes 10 tasks", task="publish10", tasks=4_000),
    Scenario(
        "publish10_confirm",
        "each publishes 10 tasks, which the broker confirms",
        task="publish10",
        tasks=4_000,
        settings={"broker_transport_options": {"confirm_publish": True}},
        brokers=("rabbitmq",),
    ),
    Scenario("latency20", "no-op, 20 tasks/s", kind="paced", rate=20),
    Scenario("latency200", "no-op, 200 tasks/s", kind="paced", rate=200),
    Scenario(
        "latency_results", "no-op, Redis results, 100 tasks/s", "paced", rate=100, results="redis"
    ),
    Scenario("idle", "nothing for a while, then 4 no-ops/s", kind="idle"),
    Scenario(
        "crawler",
        "the feed crawler of the examples",
        kind="crawl",
        tasks=1000,
        concurrency=500,
        brokers=("redis",),
    ),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}


def concurrency(scenario: Scenario, pool: str) -> int:
    """Return what follows ``-c``: a process per core, and threads in hundreds, not thousands."""
    if pool == "prefork":
        return os.cpu_count() or 1
    if pool == "threads":
        return min(scenario.concurrency, 100)
    return scenario.concurrency


#: What follows a pool's name where another interpreter runs it: the commit before, twice, as what
#: it differs from itself is what the machine's noise is.
BEFORE, AGAIN = "@before", "@again"


def command_line(pool: str) -> str:
    """Return what follows ``-P`` for a pool of a run."""
    return pool.partition("@")[0]


def reference(pool: str, pools: Collection[str]) -> str:
    """Return the pool that a pool's ratio is to, of those of a run."""
    before = f"{command_line(pool)}{BEFORE}"
    return before if before in pools else pool.removeprefix("hybrid.")


def limited(scenario: Scenario, most: int | None) -> Scenario:
    """Return the scenario with ``most`` tasks, or as it is if it has fewer.

    Tasks that wait can be any number: a million take minutes, and gigabytes in the broker.
    """
    if most is None:
        return scenario
    if scenario.kind in ("held", "flood"):
        return replace(scenario, tasks=most)
    return replace(scenario, tasks=min(most, scenario.tasks))
