"""Crawl feeds with Celery on a green pool, and say how fast it was.

Without arguments: 1500 feeds of every kind from a local web, on ``-P hybrid.gevent``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# `python examples/feed_crawler/run.py` puts this directory on the path, not its parent.
EXAMPLES = str(Path(__file__).resolve().parent.parent)
if EXAMPLES not in sys.path:
    sys.path.insert(0, EXAMPLES)

try:
    from launch import LaunchError, ending_on_sigterm
    from launch.worker import POOLS
    from rich.console import Console

    from feed_crawler import fetching
    from feed_crawler.crawl import Plan, run_crawl
    from feed_crawler.report import ProgressReport, as_json, comparison_table, crawl_table
    from feed_crawler.settings import Settings
except ModuleNotFoundError as missing:
    sys.exit(f"{missing}: run `pip install -r {Path(__file__).with_name('requirements.txt')}`")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="feed_crawler",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    what = parser.add_argument_group("what to crawl")
    what.add_argument("url", nargs="*", help="feeds, or pages that name some, not local ones")
    what.add_argument("--urls", type=Path, metavar="FILE", help="a file with one URL per line")
    what.add_argument("--feeds", type=positive, default=1500, help="how many local feeds")
    what.add_argument("--sites", type=positive, default=64, help="how many local sites have them")
    what.add_argument("--articles", type=int, default=2, help="articles fetched per feed")
    what.add_argument(
        "--rounds", type=int, choices=(1, 2), default=2, help="2: crawl again, for the 304s"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--pool", choices=POOLS, default="hybrid.gevent", help="what follows -P")
    how.add_argument(
        "--compare",
        nargs="+",
        choices=POOLS,
        metavar="POOL",
        help=f"crawl once on each of these pools instead: {', '.join(POOLS)}",
    )
    how.add_argument("--concurrency", "-c", type=positive, default=500, help="what follows -c")
    how.add_argument("--broker", metavar="URL", help="instead of an embedded Redis")
    how.add_argument(
        "--rate", type=float, help="requests per second and site (default: 50 locally, or else 2)"
    )
    how.add_argument("--timeout", type=float, default=5.0, help="seconds per HTTP request")
    how.add_argument(
        "--http",
        choices=tuple(fetching.FETCHERS),
        default="shared",
        help="one urllib3 pool, or a requests.Session per slot",
    )
    how.add_argument("--deadline", type=float, default=150.0, help="seconds per round at most")
    out = parser.add_argument_group("results")
    out.add_argument("--json", type=Path, metavar="OUT", help="write everything measured to OUT")
    out.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep databases and logs in DIR, by pool"
    )
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def make_plan(options: argparse.Namespace) -> Plan:
    """Turn the command line into a plan."""
    urls = list(options.url)
    if options.urls:
        lines = (line.strip() for line in options.urls.read_text().splitlines())
        urls += [line for line in lines if line and not line.startswith("#")]
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise LaunchError(f"{url!r} is not an http or https URL")
    rate = options.rate if options.rate is not None else (2.0 if urls else 50.0)
    if rate <= 0 or options.timeout <= 0:
        raise LaunchError("--rate and --timeout must be above 0")
    return Plan(
        feeds=options.feeds,
        urls=tuple(dict.fromkeys(urls)),
        concurrency=options.concurrency,
        rounds=options.rounds,
        sites=options.sites,
        broker=options.broker,
        settings=Settings(
            site_rate=rate,
            timeout=options.timeout,
            http=options.http,
            articles=options.articles,
        ),
        deadline=options.deadline,
        stall=options.timeout + 1.0,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = parse_arguments(arguments)
    console = Console()
    pools = list(dict.fromkeys(options.compare or [options.pool]))
    scratch = options.keep or Path(tempfile.mkdtemp(prefix="feed-crawler-"))
    failed = False
    try:
        plan = make_plan(options)
        crawls = []
        with ending_on_sigterm():
            for pool in pools:
                directory = scratch / pool
                directory.mkdir(parents=True, exist_ok=not options.keep)
                with ProgressReport(console, pool) as report:
                    crawls.append(run_crawl(pool, plan, directory, report.show))
                console.print(crawl_table(crawls[-1], plan))
        if len(crawls) > 1:
            console.print(comparison_table(crawls))
        if options.json:
            options.json.write_text(json.dumps(as_json(crawls, plan), indent=2) + "\n")
    except LaunchError as error:
        failed = True
        print(f"feed_crawler: {error}", file=sys.stderr)
    except FileExistsError as error:
        failed = True
        print(f"feed_crawler: {error.filename} exists: name an empty --keep DIR", file=sys.stderr)
    except KeyboardInterrupt:
        failed = True
        print("feed_crawler: interrupted; everything it started is ended", file=sys.stderr)
    finally:
        if not options.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
