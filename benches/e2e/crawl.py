"""The feed crawler of the examples, on the run's broker."""

from __future__ import annotations

import json
import sys

from .cell import ROOT, Bench, CellError, Sample
from .scenarios import Scenario
from .servers import Child

MOST_SECONDS = 150


def crawl(bench: Bench, scenario: Scenario, pool: str) -> Sample:
    """Crawl ``scenario.tasks`` local feeds once.

    The crawler's own figures are used. ``feeds_per_s`` is over the first nine tenths of the feeds:
    the others wait for time-outs, which no pool can shorten.
    """
    bench.broker.clear()
    output, log = bench.folder / "crawl.json", bench.folder / "crawl.log"
    before = bench.broker.counters()
    broker_before, proxy_before = bench.cpu_seconds()
    child = Child(
        [
            *(sys.executable, str(ROOT / "examples/feed_crawler/run.py"), "--pool", pool),
            *("--feeds", str(scenario.tasks), "--concurrency", str(scenario.concurrency)),
            *("--rounds", "1", "--deadline", str(MOST_SECONDS), "--json", str(output)),
            *("--broker", bench.broker.url(bench.ports[0])),
        ],
        log=log,
    )
    try:
        # It ends its worker itself when it is asked to.
        code = child.wait(MOST_SECONDS + 30)
    finally:
        child.stop()
    if code != 0:
        raise CellError(f"the feed crawler failed:\n{child.tail(20)}")
    (whole,) = json.loads(output.read_text())["crawls"]
    (figures,) = whole["rounds"]
    broker, proxy = bench.cpu_seconds()
    tasks = figures["tasks"]
    sample: Sample = {
        "tasks": tasks,
        "seconds": figures["seconds"],
        "settled": True,
        "feeds_per_s": figures["feeds_per_s_90"],
        "tasks_per_s": figures["tasks_per_s"],
        "worker_cpu_us": figures["cpu_ms_per_task"] * 1e3,
        "broker_cpu_us": (broker - broker_before) / tasks * 1e6,
        "peak_rss_mb": whole["rss_mb"],
    }
    if bench.proxy:
        sample["proxy_cpu_us"] = (proxy - proxy_before) / tasks * 1e6
    after = bench.broker.counters()
    if before and after:
        sample["commands"] = (after.commands - before.commands) / tasks
        sample["round_trips"] = (after.reads - before.reads) / tasks
    return sample
