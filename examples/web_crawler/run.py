"""Follow the links of one site with Celery on a green pool, and say how fast it was.

Without a URL: a local site of 2000 pages.
"""

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

    from web_crawler.frontier import Frontier
except ModuleNotFoundError as missing:
    sys.exit(f"{missing}: run `pip install -r {Path(__file__).with_name('requirements.txt')}`")


def crawl(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Start everything, crawl, and end everything.

    Returns:
        Seconds, pages per second, the pages by URL with their titles, the failures by URL.

    Raises:
        LaunchError: Something did not start, died, or took too long.
    """
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_for(options.broker, directory))
        broker = options.broker or redis_url
        queue = f"web-crawler-{uuid.uuid4().hex[:8]}"
        start = options.url or start_site(options.pages, directory, stack)
        app = Celery("web_crawler", broker=broker)
        app.conf.task_default_queue = queue
        stack.enter_context(own_queue(app))
        frontier = Frontier(redis_url, queue, options.max_pages)
        stack.callback(frontier.drop)
        worker = stack.enter_context(
            Worker(
                app,
                "web_crawler.app",
                pool=options.pool,
                concurrency=options.concurrency,
                queue=queue,
                log=directory / "worker.log",
                env={
                    "WEB_CRAWLER_BROKER": broker,
                    "WEB_CRAWLER_REDIS": redis_url,
                    "WEB_CRAWLER_QUEUE": queue,
                    "WEB_CRAWLER_RATE": str(options.rate or (2 if options.url else 1000)),
                    "WEB_CRAWLER_PAGES": str(options.max_pages),
                },
            )
        )
        worker.wait_ready()

        deadline = Deadline(options.deadline)
        began = shown = time.monotonic()
        frontier.claim([start])
        app.send_task("web_crawler.app.visit", (start, options.depth))
        while True:
            seen, still_open = frontier.counts()
            if not still_open:
                break
            worker.check_alive()
            if deadline.passed:
                reason = f"left {still_open} of {seen} pages after {options.deadline:g} s"
                raise LaunchError(worker.describe_failure(reason))
            if time.monotonic() - shown > 2:
                shown = time.monotonic()
                print(f"{seen - still_open} pages read, {still_open} open", flush=True)
            time.sleep(0.05)
        seconds = time.monotonic() - began
        return {
            "pool": options.pool,
            "start": start,
            "seconds": seconds,
            "pages_per_s": seen / seconds,
            "failed": frontier.failed(),
            "pages": frontier.found(),
        }


def start_site(pages: int, directory: Path, stack: ExitStack) -> str:
    """Start the local site and return the URL of its first page."""
    site = stack.enter_context(
        Child(
            [sys.executable, "-m", "web_crawler.site", "--pages", str(pages)],
            directory / "site.log",
            reads_stdout=True,
        )
    )
    return str(json.loads(site.first_line(timeout=15))["start"])


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="web_crawler",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("url", nargs="?", help="where to start, instead of the local site")
    parser.add_argument("--pages", type=int, default=2000, help="size of the local site")
    parser.add_argument("--max-pages", type=int, default=5000, help="pages visited at most")
    parser.add_argument(
        "--rate", type=float, help="pages per second (default: 1000 locally, or else 2)"
    )
    parser.add_argument("--depth", type=int, default=20, help="links followed from the start")
    parser.add_argument("--pool", choices=POOLS, default="hybrid.gevent", help="what follows -P")
    parser.add_argument("--concurrency", "-c", type=int, default=200, help="what follows -c")
    parser.add_argument("--broker", metavar="URL", help="instead of an embedded Redis")
    parser.add_argument("--deadline", type=float, default=150.0, help="seconds at most")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write what was found to OUT")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = parse_arguments(arguments)
    if options.url and not options.url.startswith(("http://", "https://")):
        print(f"web_crawler: {options.url!r} is not an http or https URL", file=sys.stderr)
        return 1
    directory = Path(tempfile.mkdtemp(prefix="web-crawler-"))
    try:
        with ending_on_sigterm():
            result = crawl(options, directory)
    except LaunchError as error:
        print(f"web_crawler: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("web_crawler: interrupted; everything it started is ended", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(
        f"-P {options.pool}: {len(result['pages'])} pages in {result['seconds']:.1f} s "
        f"({result['pages_per_s']:.0f}/s), {len(result['failed'])} failed"
    )
    for url, reason in list(result["failed"].items())[:3]:
        print(f"  {url}: {reason}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
