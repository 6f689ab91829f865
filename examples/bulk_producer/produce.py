"""The producer process: publishes ``record(0)`` … ``record(N - 1)`` from many greenlets.

``python -m bulk_producer.produce gevent 20000 100`` prints one JSON line. The greenlets share
Celery's pool of producers (``broker_pool_limit`` connections): as many publish at a time as there
are connections, and the others wait their turn without blocking the process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

HUB, TOTAL, GREENLETS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

# Before anything that imports socket or threading.
if HUB == "gevent":
    import gevent.monkey

    gevent.monkey.patch_all()
else:
    import eventlet

    eventlet.monkey_patch()

from bulk_producer.app import record  # noqa: E402


def publish(first: int) -> None:
    """Publish every ``GREENLETS``-th task from ``first`` on."""
    for number in range(first, TOTAL, GREENLETS):
        record.apply_async((number,))


def run_all(function: Callable[[int], None]) -> None:
    """Run ``function`` for each greenlet's number, and raise what any of them raised."""
    if HUB == "gevent":
        import gevent

        gevent.joinall([gevent.spawn(function, n) for n in range(GREENLETS)], raise_error=True)
    else:
        threads = [eventlet.spawn(function, n) for n in range(GREENLETS)]
        for thread in threads:
            thread.wait()


if __name__ == "__main__":
    began = time.monotonic()
    cpu = time.process_time()
    run_all(publish)
    print(
        json.dumps({"seconds": time.monotonic() - began, "cpu_s": time.process_time() - cpu}),
        flush=True,
    )
