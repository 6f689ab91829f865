"""Connections of a worker that are lost while it works, in all the ways in which that happens."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from typing import Any

import redis
from harness.brokers import Space
from harness.proxy import Link, Proxy

ABSENT_EXCHANGE = "storm.absent"
"""An exchange that is never there: whoever publishes to it has the channel closed."""

_CLOSE = """
[rabbit_networking:close_connection(Pid, <<"storm">>) ||
 Pid <- rabbit_networking:connections(),
 [{peer_port, Port}] <- [catch rabbit_reader:info(Pid, [peer_port])],
 lists:member(Port, %s)].
"""


class Losses:
    """Loses connections as the tasks of a storm end, evenly over the storm.

    * ``reply``: Redis has run the script and the connection is gone before its reply arrives.
    * ``kill``: Redis closes a connection, as ``CLIENT KILL`` does.
    * ``cut``: a connection to the broker, or to Redis with the results, is reset.
    * ``all``: all connections to the broker are reset at once.
    * ``close``: RabbitMQ closes a connection, as ``rabbitmqctl close_connection`` does.
    * ``close_all``: RabbitMQ closes all connections of the worker.

    Channels are closed by what tasks do, see :func:`add_spoilers`. The channel of the deliveries is
    not: for the errors with which RabbitMQ closes it, a stock worker ends.

    Args:
        space: Where the worker consumes.
        broker: The proxy between the worker and the broker.
        results: The proxy between the worker and Redis; on Redis the same one.
        count: How many times something is lost.
        tasks: How many tasks the storm has.
        seed: Makes the order.
    """

    def __init__(
        self,
        space: Space,
        broker: Proxy,
        results: Proxy,
        count: int,
        tasks: int,
        seed: int,
    ) -> None:
        self._space = space
        self._broker, self._results = broker, results
        self._every = tasks / (count + 1)
        self._chance = random.Random(f"lose {seed}")
        kinds = (
            ("reply", "kill", "reply", "cut", "all")
            if space.rabbit is None
            else ("cut", "close", "all", "cut", "close_all", "kill")
        )
        self._left = [kinds[number % len(kinds)] for number in range(count)]
        self._chance.shuffle(self._left)
        self.made: Counter[str] = Counter()
        self._at: list[float] = []

    @property
    def at(self) -> list[float]:
        """When something was lost, monotonic."""
        return sorted((*self._at, *self._broker.cut_at))

    def on_progress(self, ended: int) -> None:
        """Lose what is due, now that so many tasks have ended."""
        while self._left and ended >= self._every * (sum(self.made.values()) + 1):
            kind = self._left.pop()
            if kind == "reply" and self._broker.is_armed:
                kind = "cut"  # the one before has found no script to wait for
            self.made[kind] += 1
            getattr(self, f"_lose_{kind}")()
            if kind != "reply":
                self._at.append(time.monotonic())

    def _pick(self, proxy: Proxy) -> Link | None:
        # A message that BRPOP has taken is nobody's until its reply is there, as with stock
        # workers. Redis tells in no way whether it has, so those are left alone.
        links = [link for link in proxy.links if b"BRPOP" not in link.last_sent]
        return self._chance.choice(links) if links else None

    def _lose_reply(self) -> None:
        self._broker.cut_reply_to(b"EVALSHA")

    def _lose_cut(self) -> None:
        link = self._pick(self._chance.choice([self._broker, self._results]))
        if link is not None:
            link.cut()

    def _lose_all(self) -> None:
        while (link := self._pick(self._broker)) is not None:
            link.cut()

    def _lose_kill(self) -> None:
        ours = {f"{host}:{port}" for host, port in (link.address for link in self._results.links)}
        server = self._space.redis
        # While writes wait, BRPOP takes nothing: who is blocked in it has no message that is on
        # its way. Who is not may have one, see `_pick`.
        server.client_pause(2000, all=False)
        try:
            ids = [
                client["id"]
                for client in server.client_list()
                if client["addr"] in ours and ("b" in client["flags"] or client["cmd"] != "brpop")
            ]
            # It may be gone by itself.
            with contextlib.suppress(redis.ResponseError, IndexError):
                server.client_kill_filter(_id=self._chance.choice(ids))
        finally:
            server.client_unpause()

    def _lose_close(self) -> None:
        ports = [link.address[1] for link in self._broker.links]
        if ports:
            self._close([self._chance.choice(ports)])

    def _lose_close_all(self) -> None:
        self._close([link.address[1] for link in self._broker.links])

    def _close(self, ports: list[int]) -> None:
        """Close connections as ``rabbitmqctl close_all_connections`` does, the worker's alone."""
        assert self._space.rabbit is not None
        self._space.rabbit.control("eval", _CLOSE % ports)


def add_spoilers(steps: list[list[Any]], seed: int, number: int) -> list[list[Any]]:
    """Let a task in thirty make the broker close the channel that publishes go through."""
    if random.Random(f"spoil {seed} {number}").random() < 1 / 30:
        return [["spoil", ABSENT_EXCHANGE], *steps]
    return steps
