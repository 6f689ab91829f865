"""The examples do what their READMEs say, small, on a stock pool and on ours.

Each example runs once per pool as a user would run it; the tests look at what it left behind.
Nothing leaves 127.0.0.1.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
POOLS = ("hybrid.gevent", "hybrid.eventlet")
REQUIRED = ("celery", "feedparser", "psutil", "redis", "requests", "rich", "urllib3")

FEEDS = 60
ENTRIES = 8
ARTICLES = 2
# What happens to a local feed of each kind: its state after the first crawl and the second.
OUTCOMES = {
    "rss2": ("ok", "unchanged"),
    "atom": ("ok", "unchanged"),
    "rss1": ("ok", "unchanged"),
    "slow": ("ok", "unchanged"),
    "moved": ("ok", "unchanged"),
    "flaky": ("ok", "unchanged"),
    "stalled": ("ok", "unchanged"),
    "broken": ("broken", "broken"),
    "gone": ("failed", "failed"),
    "home": ("page", "page"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "example_pool" in metafunc.fixturenames:
        chosen = [name for name in metafunc.config.getoption("--pools").split(",") if name]
        metafunc.parametrize("example_pool", chosen or POOLS, indirect=True, scope="module")


def missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def example_pool(request: pytest.FixtureRequest) -> str:
    """What goes behind ``-P``, if everything that the examples need is installed."""
    name: str = request.param
    for module in (*REQUIRED, *name.split(".")[-2:]):
        if importlib.util.find_spec(module) is None:
            missing(
                f"the examples on -P {name} need the package {module}: install this checkout "
                "and examples/feed_crawler/requirements.txt"
            )
    return name


@pytest.fixture(scope="module")
def kinds() -> Counter[str]:
    """How many feeds of each kind the local web serves."""
    program = (
        "import json, feed_crawler.site as site; "
        f"assert site.ENTRIES == {ENTRIES}; print(json.dumps(list(site.kinds({FEEDS}))))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=EXAMPLES, capture_output=True, check=True, timeout=30
    )
    return Counter(json.loads(printed.stdout))


def run_example(name: str, *arguments: str) -> dict[str, Any]:
    """Run ``examples/NAME/run.py`` and return what it wrote with ``--json``."""
    out = Path(arguments[arguments.index("--json") + 1])
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / name / "run.py"), *arguments],
        cwd=out.parent,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
    return json.loads(out.read_text())


class Crawl:
    """A finished crawl: what was reported, and the database."""

    def __init__(self, report: dict[str, Any], database: sqlite3.Connection) -> None:
        self.first, self.second = report["crawls"][0]["rounds"]
        self.report = report["crawls"][0]
        self._database = database

    def rows(self, query: str) -> list[Any]:
        return self._database.execute(query).fetchall()


@pytest.fixture(scope="module")
def crawl(example_pool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crawl]:
    """Sixty feeds, crawled twice, on few sites and with a short time-out."""
    folder = tmp_path_factory.mktemp("feed_crawler")
    report = run_example(
        *("feed_crawler", "--pool", example_pool, "--feeds", str(FEEDS), "--sites", "8"),
        *("--concurrency", "50", "--timeout", "1.5", "--deadline", "60"),
        *("--json", str(folder / "out.json"), "--keep", str(folder / "kept")),
    )
    path = folder / "kept" / example_pool / "feeds.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        yield Crawl(report, database)


def kind_of(url: str) -> str:
    return urlsplit(url).path.split("/")[2]


def states_of(kinds: Counter[str], crawl_number: int) -> dict[str, int]:
    """Return the states that all feeds must be in; a home page brings one more feed."""
    expected: Counter[str] = Counter()
    for kind, count in (kinds + Counter(atom=kinds["home"])).items():
        expected[OUTCOMES[kind][crawl_number]] += count
    return dict(expected)


def test_every_kind_of_feed_is_crawled(kinds: Counter[str]) -> None:
    assert set(kinds) == set(OUTCOMES)


def test_every_feed_ends_in_the_state_of_its_kind(crawl: Crawl, kinds: Counter[str]) -> None:
    assert crawl.first["states"] == states_of(kinds, 0)
    for url, state in crawl.rows("SELECT url, state FROM feeds"):
        assert state == OUTCOMES[kind_of(url)][1], url


def test_every_entry_is_stored_once(crawl: Crawl, kinds: Counter[str]) -> None:
    per_feed = dict(crawl.rows("SELECT feed_url, count(*) FROM entries GROUP BY feed_url"))
    healthy = [url for (url,) in crawl.rows("SELECT url FROM feeds WHERE state = 'unchanged'")]
    assert len(healthy) == states_of(kinds, 1)["unchanged"]
    assert {url: per_feed[url] for url in healthy} == dict.fromkeys(healthy, ENTRIES)
    # The second crawl has added none.
    assert crawl.first["entries"] == crawl.second["entries"] == sum(per_feed.values())


def test_the_three_formats_are_told_apart(crawl: Crawl) -> None:
    versions = crawl.rows("SELECT url, version FROM feeds WHERE state = 'unchanged'")
    by_kind = {"rss2": "rss20", "atom": "atom10", "rss1": "rss10"}
    seen = {(kind_of(url), version) for url, version in versions}
    assert {pair for pair in seen if pair[0] in by_kind} == set(by_kind.items())


def test_articles_are_fetched_by_follow_up_tasks(crawl: Crawl, kinds: Counter[str]) -> None:
    articles = crawl.rows("SELECT article, count(*) FROM entries GROUP BY article")
    fetched = dict(articles)["ok"]
    assert set(dict(articles)) == {"ok", "none"}
    assert fetched >= ARTICLES * states_of(kinds, 1)["unchanged"]
    assert not crawl.rows("SELECT 1 FROM entries WHERE article = 'ok' AND text NOT LIKE 'Entry %'")


def test_a_broken_feed_is_reported_and_what_it_has_is_kept(crawl: Crawl) -> None:
    broken = crawl.rows(
        "SELECT url, error, (SELECT count(*) FROM entries WHERE feed_url = url)"
        " FROM feeds WHERE state = 'broken'"
    )
    reported = dict(crawl.report["failures"])
    for url, error, entries in broken:
        assert error.startswith("SAXParseException"), url
        assert reported[url] == error
        cut_off = int(url.rsplit("/", 1)[1]) % 2 == 0
        assert entries >= ENTRIES - 1 if cut_off else entries == 0, url


def test_a_missing_feed_says_so(crawl: Crawl) -> None:
    errors = crawl.rows("SELECT DISTINCT error FROM feeds WHERE state = 'failed'")
    assert errors == [("HTTP 404",)]


def test_the_second_crawl_gets_304_for_all_that_is_healthy(
    crawl: Crawl, kinds: Counter[str]
) -> None:
    unchanged = states_of(kinds, 1)["unchanged"]
    assert crawl.second["states"]["unchanged"] == unchanged
    assert crawl.second["answers"]["feed 304"] == unchanged
    assert "feed 304" not in crawl.first["answers"]
    assert "article 200" not in crawl.second["answers"]


def test_trouble_is_retried_until_it_is_over(crawl: Crawl, kinds: Counter[str]) -> None:
    # A flaky feed with an odd number answers 503 twice, one with an even number once.
    flaky = [url for (url,) in crawl.rows("SELECT url FROM feeds") if kind_of(url) == "flaky"]
    refused = sum(1 + int(url.rsplit("/", 1)[1]) % 2 for url in flaky)
    assert len(flaky) == kinds["flaky"]
    assert crawl.first["answers"]["feed 503"] == refused
    # A busy machine may time out more, never less.
    assert crawl.first["retries"] >= refused + kinds["stalled"]
    assert crawl.second["retries"] == 0


def test_redirects_are_followed_to_the_feed(crawl: Crawl, kinds: Counter[str]) -> None:
    moved = [
        (final_url, redirects)
        for url, final_url, redirects in crawl.rows("SELECT url, final_url, redirects FROM feeds")
        if kind_of(url) == "moved"
    ]
    assert len(moved) == kinds["moved"]
    assert {(kind_of(url), redirects) for url, redirects in moved} == {("rss2", 2)}


def test_a_page_leads_to_its_feed(crawl: Crawl, kinds: Counter[str]) -> None:
    found = crawl.rows("SELECT url, found_on, state FROM feeds WHERE found_on != ''")
    assert len(found) == kinds["home"]
    assert {(kind_of(url), kind_of(page)) for url, page, _ in found} == {("atom", "home")}


def test_a_site_is_not_asked_more_often_than_its_rate(example_pool: str, tmp_path: Path) -> None:
    report = run_example(
        *("feed_crawler", "--pool", example_pool, "--feeds", "12", "--sites", "1"),
        *("--rounds", "1", "--rate", "4", "--articles", "0", "--concurrency", "50"),
        *("--deadline", "60", "--json", str(tmp_path / "out.json")),
    )
    (only,) = report["crawls"][0]["rounds"]
    requests = sum(count for what, count in only["answers"].items() if what != "stats 200")
    assert requests >= 12
    assert only["seconds"] >= (requests - 1) / 4
    # Some had to wait for more than a slot may sleep, and came back through the broker.
    assert only["tasks"] > 2 * 12


def test_the_per_slot_sessions_crawl_the_same(example_pool: str, tmp_path: Path) -> None:
    report = run_example(
        *("feed_crawler", "--pool", example_pool, "--feeds", "20", "--sites", "4"),
        *("--http", "per-slot", "--rounds", "1", "--concurrency", "20", "--deadline", "60"),
        *("--json", str(tmp_path / "out.json")),
    )
    (only,) = report["crawls"][0]["rounds"]
    assert "pending" not in only["states"]
    assert only["states"]["ok"] >= 16


def test_the_web_crawler_reads_every_page_once(example_pool: str, tmp_path: Path) -> None:
    result = run_example(
        *("web_crawler", "--pool", example_pool, "--pages", "120", "--concurrency", "30"),
        *("--deadline", "60", "--json", str(tmp_path / "out.json")),
    )
    paths = {urlsplit(url).path: title for url, title in result["pages"].items()}
    assert paths == {f"/page/{n}": f"Page {n}" for n in range(120)}
    assert {urlsplit(url).path for url in result["failed"]} == {"/page/169", "/page/219"}


def test_the_web_crawler_keeps_to_depth_and_page_limit(example_pool: str, tmp_path: Path) -> None:
    shallow = run_example(
        *("web_crawler", "--pool", example_pool, "--pages", "120", "--depth", "2"),
        *("--deadline", "60", "--json", str(tmp_path / "depth.json")),
    )
    assert len(shallow["pages"]) == 1 + 3 + 9
    few = run_example(
        *("web_crawler", "--pool", example_pool, "--pages", "120", "--max-pages", "25"),
        *("--deadline", "60", "--json", str(tmp_path / "limit.json")),
    )
    assert len(few["pages"]) + len(few["failed"]) == 25


def test_every_task_of_the_bulk_producer_arrives_once(example_pool: str, tmp_path: Path) -> None:
    result = run_example(
        *("bulk_producer", "--pool", example_pool, "--tasks", "500", "--greenlets", "40"),
        *("--concurrency", "30", "--deadline", "60", "--json", str(tmp_path / "out.json")),
    )
    assert (result["arrived"], result["runs"]) == (500, 500)


def test_a_broker_that_cannot_be_reached_is_explained(example_pool: str, tmp_path: Path) -> None:
    finished = subprocess.run(
        [
            *(sys.executable, str(EXAMPLES / "feed_crawler" / "run.py"), "--feeds", "1"),
            *("--pool", example_pool, "--broker", "nonsense://127.0.0.1/"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 1
    explanation = finished.stderr[finished.stderr.index("feed_crawler: ") :]
    assert "nonsense://127.0.0.1/" in explanation
    assert "--broker" in explanation
    assert "Traceback" not in finished.stderr
