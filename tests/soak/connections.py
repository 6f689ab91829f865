"""What RabbitMQ says about the connections of workers, again and again, from another thread."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from harness.brokers import RabbitServer

_COLUMNS = ("client_properties", "name", "connected_at", "timeout", "recv_oct", "send_oct")


def named(name: str) -> dict[str, Any]:
    """Return settings that make all connections of a worker bear ``name``."""
    client_properties = {"connection_name": name}
    return {"broker_transport_options": {"client_properties": client_properties}}


@dataclass(frozen=True)
class Sample:
    """One connection at one time.

    Attributes:
        at: The time, monotonic.
        heartbeat: The interval that client and broker agreed on; 0 for none.
        received: Bytes that the broker has received.
        sent: Bytes that the broker has sent.
    """

    at: float
    heartbeat: int
    received: int
    sent: int


class Watch:
    """Samples all connections of a broker while the context is open.

    Args:
        rabbit: The broker.
        every: Seconds between two samples.
    """

    def __init__(self, rabbit: RabbitServer, every: float) -> None:
        self._rabbit = rabbit
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connections", daemon=True)
        self._rounds: list[dict[str, dict[str, Sample]]] = []
        self.error: Exception | None = None

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(90)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += self._every
            try:
                self._rounds.append(self._read())
            except Exception as exc:
                self.error = exc
                return

    def _read(self) -> dict[str, dict[str, Sample]]:
        found: dict[str, dict[str, Sample]] = defaultdict(dict)
        text = self._rabbit.control("list_connections", "--formatter", "json", *_COLUMNS)
        at = time.monotonic()
        for row in json.loads(text):
            if not isinstance(row["client_properties"], list):
                continue  # a connection that is being opened has a text there
            properties = {key: value for key, _, value in row["client_properties"]}
            identity = f"{row['name']} since {row['connected_at']}"
            found[properties.get("connection_name", "")][identity] = Sample(
                at, row["timeout"], row["recv_oct"], row["send_oct"]
            )
        return found

    def rounds(self) -> int:
        """Count the samples taken so far."""
        if self.error is not None:
            raise self.error
        return len(self._rounds)

    def sets(self, name: str, since: int) -> set[frozenset[str]]:
        """Return the different sets of connections that bore ``name``, from round ``since`` on.

        What tells two connections apart is their ports and the time when they were opened.
        """
        return {frozenset(found.get(name, ())) for found in self._rounds[since:]}

    def histories(self, name: str, since: int) -> dict[str, list[Sample]]:
        """Return the samples of each connection that bore ``name``, from round ``since`` on."""
        histories: dict[str, list[Sample]] = defaultdict(list)
        for found in self._rounds[since:]:
            for identity, sample in found.get(name, {}).items():
                histories[identity].append(sample)
        return histories


def longest_silence(history: list[Sample], direction: str) -> float:
    """Return the longest time between two samples that show the same number of bytes.

    Args:
        history: The samples of one connection.
        direction: ``received`` or ``sent``.
    """
    longest, last = 0.0, history[0]
    for sample in history:
        if getattr(sample, direction) != getattr(last, direction):
            last = sample
        longest = max(longest, sample.at - last.at)
    return longest
