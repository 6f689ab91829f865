"""A script: what a process has that has made a pool and not started it, and its children.

``python before_start.py HUB`` prints a line of JSON.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from typing import Any

import hybrid

HUB = sys.argv[1]
hybrid.patch(HUB)

import celery.worker.components  # noqa: E402, F401
from greenlet import greenlet  # noqa: E402

if HUB == "gevent":
    from gevent.monkey import get_original

    fork: Any = get_original("os", "fork")
else:
    from eventlet.patcher import original

    fork = original("os").fork


def opened() -> dict[str, Any]:
    greenlets = [one for one in gc.get_objects() if isinstance(one, greenlet) and not one.dead]
    return {
        "files": sorted(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "greenlets": len(greenlets),
    }


def run(pool: Any, early: list[int]) -> dict[str, Any]:
    from hybrid import hubs

    pool.start()
    hub = hubs.running()
    outcome: list[int] = []
    pool.apply_async(lambda: os.getpid(), callback=outcome.append)
    while not (outcome and early):
        hub.sleep(0.001)  # type: ignore[union-attr]
    pool.close()
    pool.stop()
    return {"job": outcome == [os.getpid()], "timer": early == [os.getpid()]}


def in_a_child(pool: Any, early: list[int]) -> Any:
    reader, writer = os.pipe()
    pid = fork()
    if not pid:
        try:
            os.write(writer, json.dumps(run(pool, early)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096)
    os.close(reader)
    os.waitpid(pid, 0)
    return json.loads(said or "null")


before = opened()
module = importlib.import_module(f"hybrid.{HUB}")
pool, timer = module.TaskPool(4), module.Timer()
early: list[int] = []
timer.call_after(0, lambda: early.append(os.getpid()))
from hybrid import hubs  # noqa: E402

made = opened()
is_running = hubs.running() is not None
children = [in_a_child(pool, early) for _ in range(2)]
print(
    json.dumps(
        {
            "before": before,
            "made": made,
            "is_running": is_running,
            "children": children,
            "parent": run(pool, early),
        }
    )
)
