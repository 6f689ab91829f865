"""Publish thousands of tasks from many greenlets, run them, and check that every one arrived."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

EXAMPLES = str(Path(__file__).resolve().parent.parent)
if EXAMPLES not in sys.path:
    sys.path.insert(0, EXAMPLES)

try:
    from celery import Celery
    from launch import Child, LaunchError, Worker, ending_on_sigterm, own_queue, redis_for
    from launch.process import Deadline
    from launch.worker import POOLS

    from bulk_producer.app import Arrivals
except ModuleNotFoundError as missing:
    sys.exit(f"{missing}: run `pip install -r {Path(__file__).with_name('requirements.txt')}`")


def publish_and_run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Publish everything, then start the worker and wait until every task ran.

    The two do not overlap, so that each rate is that of one process.

    Raises:
        LaunchError: Something did not start, died, or took too long, or a task is missing.
    """
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_for(options.broker, directory))
        broker = options.broker or redis_url
        queue = f"bulk-producer-{uuid.uuid4().hex[:8]}"
        env = {
            "BULK_PRODUCER_BROKER": broker,
            "BULK_PRODUCER_REDIS": redis_url,
            "BULK_PRODUCER_QUEUE": queue,
        }
        app = Celery("bulk_producer", broker=broker)
        app.conf.task_default_queue = queue
        stack.enter_context(own_queue(app))
        arrivals = Arrivals(redis_url, queue)
        stack.callback(arrivals.drop)
        deadline = Deadline(options.deadline)

        producer = stack.enter_context(
            Child(
                [
                    *(sys.executable, "-m", "bulk_producer.produce"),
                    *(options.hub, str(options.tasks), str(options.greenlets)),
                ],
                directory / "producer.log",
                env=env,
                reads_stdout=True,
            )
        )
        published = json.loads(producer.first_line(timeout=deadline.left))
        print(
            f"published {options.tasks} tasks from {options.greenlets} {options.hub} greenlets in "
            f"{published['seconds']:.1f} s: {options.tasks / published['seconds']:.0f}/s, "
            f"{1e6 * published['cpu_s'] / options.tasks:.0f} µs of CPU each",
            flush=True,
        )

        worker = stack.enter_context(
            Worker(
                app,
                "bulk_producer.app",
                pool=options.pool,
                concurrency=options.concurrency,
                queue=queue,
                log=directory / "worker.log",
                env=env,
            )
        )
        began = shown = started = time.monotonic()
        while (counted := arrivals.count())[0] < options.tasks:
            worker.check_alive()
            if deadline.passed:
                missing = arrivals.missing(options.tasks)
                reason = f"has not run {len(missing)} tasks, {missing[:5]} … among them"
                raise LaunchError(worker.describe_failure(reason))
            if not counted[0]:
                # The clock starts with the first task: the worker's start is not its speed.
                began = time.monotonic()
            elif time.monotonic() - shown > 2:
                shown = time.monotonic()
                print(f"{counted[0]} of {options.tasks} tasks ran", flush=True)
            time.sleep(0.02)
        seconds = time.monotonic() - began
        return {
            "pool": options.pool,
            "hub": options.hub,
            "tasks": options.tasks,
            "greenlets": options.greenlets,
            "publish_s": published["seconds"],
            "publish_per_s": options.tasks / published["seconds"],
            "publish_cpu_us": 1e6 * published["cpu_s"] / options.tasks,
            "worker_start_s": began - started,
            "run_s": seconds,
            "run_per_s": options.tasks / seconds,
            "arrived": counted[0],
            "runs": arrivals.count()[1],
        }


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bulk_producer",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, default=10_000, help="how many are published")
    parser.add_argument("--greenlets", type=int, default=100, help="how many publish them")
    parser.add_argument("--hub", choices=("gevent", "eventlet"), help="default: as the pool")
    parser.add_argument("--pool", choices=POOLS, default="hybrid.gevent", help="what follows -P")
    parser.add_argument("--concurrency", "-c", type=int, default=200, help="what follows -c")
    parser.add_argument("--broker", metavar="URL", help="instead of an embedded Redis")
    parser.add_argument("--deadline", type=float, default=150.0, help="seconds at most")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers to OUT")
    options = parser.parse_args(arguments)
    options.hub = options.hub or ("eventlet" if "eventlet" in options.pool else "gevent")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = parse_arguments(arguments)
    directory = Path(tempfile.mkdtemp(prefix="bulk-producer-"))
    try:
        with ending_on_sigterm():
            result = publish_and_run(options, directory)
    except LaunchError as error:
        print(f"bulk_producer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bulk_producer: interrupted; everything it started is ended", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(
        f"-P {options.pool}: all {result['arrived']} tasks arrived, {result['runs']} runs in "
        f"{result['run_s']:.1f} s ({result['run_per_s']:.0f}/s)"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
