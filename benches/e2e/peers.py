"""Other Python workers beside ours: no-op tasks on one Redis, results off, one worker process each.

``python -m benches.e2e.peers``, after ``pip install -r benches/requirements.txt``. Those that are
not installed are skipped. All have a full queue when they start. The window of a peer opens when
its first task starts; that of ours earlier, when the first message leaves the queue.

What they promise differs, and so the figures compare what a user gets by default: taskiq on lists
and huey lose what a killed worker held, as Celery does with early acknowledgement; taskiq on
streams, dramatiq and streaq acknowledge when the task is done.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from . import kept, ledger, tables, usage
from .cell import BOOT_SECONDS, ROOT, Bench, CellError, Sample
from .loads import measure
from .scenarios import PEER_VARIABLE, REDIS_VARIABLE, SCENARIOS, limited
from .servers import Child, MissingServerError, RedisServer, TooLateError, eventually, servers

OURS = ("hybrid.gevent", "hybrid.eventlet", "gevent", "eventlet")


@dataclass(frozen=True)
class Peer:
    """A worker that is not Celery.

    Attributes:
        name: What the results call it.
        packages: What has to be installed.
        concurrency: How many tasks it runs at a time.
        command: Its own command line for one worker process.
    """

    name: str
    packages: tuple[str, ...]
    concurrency: int
    command: tuple[str, ...]

    def missing(self) -> list[str]:
        return [
            name for name in self.packages if not importlib.util.find_spec(name.replace("-", "_"))
        ]


_APPS = "benches.e2e.peer_apps"
_TASKIQ = ("taskiq", "worker", f"{_APPS}:broker", "--workers", "1", "--log-level", "WARNING")
PEERS = (
    Peer("taskiq-streams", ("taskiq", "taskiq-redis"), 1000, (*_TASKIQ, "--max-async-tasks=1000")),
    Peer("taskiq-lists", ("taskiq", "taskiq-redis"), 1000, (*_TASKIQ, "--max-async-tasks=1000")),
    Peer("dramatiq", ("dramatiq",), 8, ("dramatiq", _APPS, "--processes=1", "--threads=8")),
    Peer(
        "huey",
        ("huey", "gevent"),
        100,
        ("huey_consumer", f"{_APPS}.huey", "-k", "greenlet", "-w", "100", "-q"),
    ),
    Peer("streaq", ("streaq",), 1000, ("streaq", "run", f"{_APPS}:worker")),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benches.e2e.peers", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=20_000, help="per cell at most (20000)")
    parser.add_argument("--seconds", type=float, default=6.0, help="per cell at most (6)")
    parser.add_argument("--output", type=Path, default=kept.RESULTS / "e2e-peers.json")
    options = parser.parse_args(arguments)
    scenario = limited(SCENARIOS["noop"], options.tasks)
    peers = []
    for peer in PEERS:
        if missing := peer.missing():
            print(f"{peer.name} is skipped: {', '.join(missing)} not installed", file=sys.stderr)
        else:
            peers.append(peer)
    folder = Path(tempfile.mkdtemp(prefix="hybrid-bench-"))
    rows = [
        *(_row(pool, scenario.concurrency) for pool in OURS),
        *(_row(peer.name, peer.concurrency) for peer in peers),
    ]
    try:
        with servers(folder, "redis") as (_, redis):
            bench = Bench(redis, redis, (redis.port, redis.port), None, folder, options.seconds)
            result: dict[str, Any] = {
                "title": "other workers on redis",
                **kept.describe({"redis server": redis.version}),
                "broker": "redis",
                "repeats": options.repeats,
                "seconds_per_cell": options.seconds,
                "rows": rows,
            }
            names = {name for peer in peers for name in peer.packages}
            result["versions"].update({name: metadata.version(name) for name in sorted(names)})
            by_name = {peer.name: peer for peer in peers}
            for repeat in range(options.repeats):
                for row in rows if repeat % 2 else reversed(rows):
                    name = row["pool"]
                    try:
                        if name in by_name:
                            sample = drain(bench, by_name[name], options.tasks)
                        else:
                            sample = measure(bench, scenario, name)
                    except CellError as error:
                        row["failures"].append(str(error))
                        said = f"failed: {error}"
                    else:
                        row["samples"].append(sample)
                        said = f"{sample['tasks_per_s']:.0f}/s"
                    print(f"repeat {repeat + 1}, {name}: {said}", file=sys.stderr, flush=True)
    except MissingServerError as missing_server:
        print(missing_server, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tables.keep(options.output, result)
    return 0


def _row(name: str, concurrency: int) -> dict[str, Any]:
    return {
        "scenario": "noop",
        "link": "direct",
        "pool": name,
        "concurrency": concurrency,
        "samples": [],
        "failures": [],
    }


def drain(bench: Bench, peer: Peer, count: int) -> Sample:
    """Fill the peer's queue and drain it with one worker of its own."""
    redis: RedisServer = bench.results
    redis.clear()
    path = bench.folder / "ledger"
    rows = ledger.Ledger.create(path, count)
    log = bench.folder / "peer.log"
    log.unlink(missing_ok=True)
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        PEER_VARIABLE: peer.name,
        REDIS_VARIABLE: redis.url(),
        ledger.VARIABLE: str(path),
    }
    # Not as a main module: huey's tasks are named after theirs.
    program = f"import {_APPS} as app; app.send({count})"
    sender = Child([sys.executable, "-c", program], log=log, cwd=bench.folder, env=env)
    try:
        if sender.wait(BOOT_SECONDS) != 0:
            raise CellError(f"nothing was sent:\n{sender.tail(20)}")
    finally:
        sender.stop()
    script = Path(sys.executable).parent / peer.command[0]
    opened = redis.counters().connections
    command = [sys.executable, str(script), *peer.command[1:]]
    worker = Child(command, log=log, cwd=bench.folder, env=env)
    try:
        eventually(lambda: _started(worker, rows), "a task to start", BOOT_SECONDS, every=0.001)
        first, cpu = redis.counters(), usage.cpu_seconds(usage.session(worker.pid))
        broker_cpu = redis.cpu_seconds()
        deadline = time.monotonic() + bench.seconds
        while (done := rows.done(0, count)) < count and time.monotonic() < deadline:
            time.sleep(0.002)
        last, seconds = redis.counters(), time.monotonic() - min(filter(None, rows.started))
        session = usage.session(worker.pid)
        return {
            "tasks": done,
            "seconds": seconds,
            "settled": done == count,
            "repeated": rows.repeated(0, count),
            "tasks_per_s": done / seconds,
            "worker_cpu_us": (usage.cpu_seconds(session) - cpu) / done * 1e6,
            "broker_cpu_us": (redis.cpu_seconds() - broker_cpu) / done * 1e6,
            "peak_rss_mb": usage.peak_rss_mb(session),
            "commands": (last.commands - first.commands) / done,
            "round_trips": (last.reads - first.reads) / done,
            "connections": last.connections - opened,
            "connections_at_once": redis.connected(),
        }
    except TooLateError as error:
        raise CellError(f"{error}\n{worker.tail(20)}") from error
    finally:
        worker.kill()
        worker.stop()
        path.unlink()


def _started(worker: Child, rows: ledger.Ledger) -> bool:
    if not worker.running:
        raise CellError(f"the worker ended:\n{worker.tail(20)}")
    return any(rows.started)


if __name__ == "__main__":
    sys.exit(main())
