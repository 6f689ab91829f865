"""Runs a cell: a worker through a proxy, brought into its state, told to end, and looked at."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from pathlib import Path

from harness.brokers import Brokers
from harness.journal import Journal
from harness.proxy import Proxy, proxied
from harness.waiting import eventually
from harness.worker import Worker, make_client
from matrix import Cell
from right import LONG, SHORT, SOFT, WARM, Observed, bound

HERE = Path(__file__).resolve().parent

SLOTS = 4
#: Tasks that wait for the worker, by its state.
BACKLOG = {"starting": 8, "idle": 0, "busy": 2, "full": 20, "waiting": 2, "half-open": 2}
#: Signals of each ending.
SIGNALS = {
    "TERM": [signal.SIGTERM],
    "INT": [signal.SIGINT],
    "INT INT": [signal.SIGINT, signal.SIGINT],
    "QUIT": [signal.SIGQUIT],
    "TERM QUIT": [signal.SIGTERM, signal.SIGQUIT],
    "REMAP_SIGTERM": [signal.SIGTERM],
    "soft": [signal.SIGQUIT],
    "HUP": [signal.SIGHUP],
}


class Run:
    """One run of ``cell``."""

    def __init__(self, cell: Cell, brokers: Brokers, folder: Path, pool: str) -> None:
        self.cell = cell
        self.space = brokers.space(cell.broker)
        self._port = (self.space.rabbit or brokers.redis).port
        self._journal = Journal(self.space.redis_url)
        self._folder = folder
        self._pool = pool
        self._sent: list[str] = []
        self._short: list[str] = []

    def observe(self) -> tuple[Observed, str]:
        """Run the cell; return what was seen, and the end of the worker's log."""
        with proxied(self._port) as proxy, contextlib.closing(self._journal):
            worker = self._start(proxy)
            try:
                self._bring_into_state(worker, proxy)
                began = self._end(worker, proxy)
                code, took, restarted = self._wait_for_end(worker, proxy, began)
            finally:
                worker.kill()
                proxy.close()
            return self._look(code, took, restarted), worker.child.tail()

    def _start(self, proxy: Proxy) -> Worker:
        if self.cell.state in ("starting", "full"):
            self._send(BACKLOG[self.cell.state])
        url = self.space.settings["broker_url"].replace(f":{self._port}/", f":{proxy.port}/")
        env = {"REMAP_SIGTERM": "SIGQUIT"} if self.cell.ending == "REMAP_SIGTERM" else {}
        return Worker(
            self._pool,
            self.space,
            self._folder,
            app="signals_project",
            paths=[HERE],
            concurrency=SLOTS,
            options=[] if self.cell.state == "starting" else ["--without-mingle"],
            settings={
                "broker_url": url,
                "broker_connection_retry_on_startup": True,
                "worker_prefetch_multiplier": self.cell.prefetch,
                "worker_soft_shutdown_timeout": SOFT if self.cell.ending == "soft" else 0,
                "redis_socket_timeout": 60,
            },
            env=env,
        )

    def _send(self, count: int) -> None:
        """Send tasks; with a soft shutdown, every second one is short."""
        client = make_client({**self.space.settings, "result_backend": None})
        try:
            for number in range(count):
                is_short = self.cell.ending in WARM or (self.cell.ending == "soft" and number % 2)
                seconds = SHORT if is_short else LONG
                sent = client.send_task("nap", (seconds,)).id
                self._sent.append(sent)
                if is_short:
                    self._short.append(sent)
        finally:
            client.close()

    def _bring_into_state(self, worker: Worker, proxy: Proxy) -> None:
        state = self.cell.state
        if state == "starting":
            eventually(lambda: "Connected to" in worker.output, f"{worker} to connect", 45)
            return
        worker.wait_ready()
        if state not in ("idle", "full"):
            self._send(BACKLOG[state])
        if state != "idle":
            self._journal.wait_for("naps", "began", times=min(SLOTS, BACKLOG[state]))
        if state == "waiting":
            proxy.lose_all(is_refusing=True)
            eventually(lambda: "Trying again" in worker.output, "the loss to be noticed", 30)
        elif state == "half-open":
            proxy.is_dead = True

    def _end(self, worker: Worker, proxy: Proxy) -> float:
        cell = self.cell
        if cell.ending == "control.shutdown":
            _heal(cell, proxy)
            worker.wait_ready()
            client = make_client(self.space.settings)
            with contextlib.closing(client):
                # Commands are for those who listen by now.
                eventually(
                    lambda: client.control.ping([worker.node], timeout=1), f"{worker} to answer", 30
                )
                client.control.shutdown([worker.node])
            return time.monotonic()
        for number, name in enumerate(SIGNALS[cell.ending]):
            if number:
                said = "Hitting Ctrl+C" if name == signal.SIGINT else "Warm shutdown"
                eventually(
                    lambda said=said: said in worker.output or not worker.child.running,
                    "the first signal to be heard",
                )
            if worker.child.running:
                worker.child.send_signal(name)
        return time.monotonic()

    def _wait_for_end(
        self, worker: Worker, proxy: Proxy, began: float
    ) -> tuple[int | None, float, bool]:
        if self.cell.ending != "HUP":
            code = worker.child.wait(bound(self.cell))
            return code, time.monotonic() - began, False

        def restarted() -> bool:
            return worker.output.count("[queues]") > 1

        with contextlib.suppress(AssertionError):
            eventually(
                lambda: restarted() or not worker.child.running, "a restart", bound(self.cell)
            )
        took = time.monotonic() - began
        if worker.child.running and restarted():
            _heal(self.cell, proxy)
            with contextlib.suppress(AssertionError):
                eventually(self._all_done, "all tasks to run", 30)
            worker.child.stop(within=15)
            return None, took, True
        return worker.child.exit_code, took, False

    def _all_done(self) -> bool:
        return len(self._count("woke")) == len(self._sent)

    def _count(self, event: str) -> dict[str, int]:
        return dict(Counter(entry["id"] for entry in self._journal.entries("naps", event)))

    def _look(self, code: int | None, took: float, restarted: bool) -> Observed:
        began, woke = self._count("began"), self._count("woke")
        undone = len(self._sent) - len(woke)
        unacked = self.space.unacked() if self.cell.broker == "redis" else 0
        if self.cell.broker == "rabbitmq":
            with contextlib.suppress(AssertionError):
                # The server notices after the worker has gone.
                eventually(lambda: self.space.queue().ready() >= undone, "what is left", 5)
        return Observed(
            code=code,
            took=took,
            began=began,
            woke=woke,
            sent=self._sent,
            short=self._short,
            ready=self.space.queue().ready(),
            unacked=unacked,
            restarted=restarted,
        )


def _heal(cell: Cell, proxy: Proxy) -> None:
    if cell.state in ("waiting", "half-open"):
        proxy.is_dead = proxy.is_refusing = False
        if cell.state == "half-open":
            proxy.lose_all()
