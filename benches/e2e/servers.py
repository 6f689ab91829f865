"""The brokers: started for the run on free loopback ports, asked for counts, and filled.

Messages are made from one that Celery has sent: the bench varies its id and its number. So they
are what a producer sends, and 40 000 of them are in the queue within a second or two.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Callable

import amqp
import redis
from celery import Celery

from . import usage
from .scenarios import DRAIN, QUEUE, REPLIES

# The brokers of the tests are the brokers of the bench.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from harness.brokers import MissingServerError, RabbitServer
from harness.processes import Child, EmbeddedRedis, free_port
from harness.waiting import TooLateError, eventually

__all__ = [
    "Broker",
    "Child",
    "Counters",
    "MissingServerError",
    "RedisServer",
    "TooLateError",
    "eventually",
    "free_port",
    "servers",
    "task_number",
    "utc",
]

RESULTS_DB = 1
_ID = "00000000-0000-4000-8000-000000000000"
_TAG = "11111111-0000-4000-8000-000000000000"
_ETA = "2000-01-01T00:00:00+00:00"
_PUBLISHED_AT_ONCE = 2000
_BATCH_BYTES = 4_000_000


@dataclass(frozen=True)
class Counters:
    """What Redis has counted so far, without what the bench itself asked."""

    commands: int
    reads: int
    connections: int
    by_command: Counter[str]


class RedisServer:
    """A ``redis-server`` without persistence; database 0 for messages, 1 for results."""

    name = "redis"

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise MissingServerError("redis-server is missing: run `make brokers`")
        folder.mkdir(parents=True)
        self.child = EmbeddedRedis(folder, executable=binary)
        self.port = self.child.port
        self._own: Counter[str] = Counter()
        self._own_connections = 0
        self._clients: list[redis.Redis] = []
        self._broker = self._connect(0)
        self._results = self._connect(RESULTS_DB)

    def _connect(self, database: int) -> redis.Redis:
        client = redis.Redis(port=self.port, db=database, single_connection_client=True)
        client.ping()
        self._clients.append(client)
        self._own_connections += 1
        return client

    @property
    def version(self) -> str:
        return str(self._ask("INFO", "server")["redis_version"])

    def url(self, port: int | None = None) -> str:
        """Return the URL of the broker, seen through ``port``."""
        return f"redis://127.0.0.1:{port or self.port}/0"

    def results_url(self, port: int | None = None) -> str:
        return f"redis://127.0.0.1:{port or self.port}/{RESULTS_DB}"

    def _ask(self, *command: Any, client: redis.Redis | None = None) -> Any:
        self._own[command[0].lower()] += 1
        return (client or self._broker).execute_command(*command)

    # -- counts

    def counters(self) -> Counters:
        stats = self._ask("INFO", "stats", "commandstats")
        own = sum(self._own.values())
        by_command = Counter(
            {
                name.removeprefix("cmdstat_"): figures["calls"]
                for name, figures in stats.items()
                if name.startswith("cmdstat_")
            }
        )
        by_command.subtract(self._own)
        return Counters(
            stats["total_commands_processed"] - own,
            stats["total_reads_processed"] - own,
            stats["total_connections_received"],
            by_command,
        )

    def connected(self) -> int:
        return int(self._ask("INFO", "clients")["connected_clients"]) - self._own_connections

    def cpu_seconds(self) -> float:
        return usage.cpu_seconds([self.child.pid])

    def held(self) -> int:
        """Count the messages that workers have taken and not acknowledged."""
        return int(self._ask("HLEN", "unacked"))

    def waiting(self, queue: str) -> int:
        return int(self._ask("LLEN", queue))

    def results(self) -> int:
        return int(self._ask("DBSIZE", client=self._results))

    # -- messages

    def learn(
        self, app: Celery, task: str, payload: str, with_eta: bool, ignore_result: bool
    ) -> None:
        """Let ``app`` send one message, and make all that follow from it."""
        _send_template(app, task, with_eta, ignore_result)
        raw = self._ask("RPOP", QUEUE)
        envelope = json.loads(raw)
        self._body = _vary_body(base64.b64decode(envelope["body"]).decode(), payload)
        envelope["body"] = "BODY"
        envelope["properties"]["delivery_tag"] = _TAG
        envelope["headers"]["argsrepr"] = "ARGSREPR"
        self._envelope = json.dumps(envelope)
        self._argsrepr = _argsrepr(payload)

    def envelope(self, number: int, eta: str | None = _ETA) -> str:
        body = base64.b64encode((self._body % number).encode()).decode()
        return (
            self._envelope.replace(_ID, task_id(number))
            .replace(_TAG, str(uuid.uuid4()))
            .replace(f'"{_ETA}"', json.dumps(eta))
            .replace("ARGSREPR", self._argsrepr % number)
            .replace("BODY", body)
        )

    def send(self, number: int) -> None:
        """Send one message at once."""
        self._ask("LPUSH", QUEUE, self.envelope(number))

    def fill(self, numbers: Iterable[int], eta: str | None = _ETA) -> None:
        """Put many messages into the queue; without an ETA even if they were learned with one."""
        envelopes = (self.envelope(number, eta) for number in numbers)
        size = max(1, min(1000, _BATCH_BYTES // len(self.envelope(0))))
        while batch := list(islice(envelopes, size)):
            self._ask("LPUSH", QUEUE, *batch)

    def clear(self) -> None:
        self._ask("FLUSHALL")

    def result_channel(self, note: Callable[[dict[str, Any]], None]) -> redis.client.PubSub:
        """Subscribe to every result that is published; each message is passed to ``note``."""
        client = redis.Redis(port=self.port, db=RESULTS_DB)
        listener = client.pubsub(ignore_subscribe_messages=True)
        listener.psubscribe(**{"celery-task-meta-*": note})
        return listener

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self.child.stop()


class RabbitMQ:
    """One RabbitMQ node. It has no figures for commands, and none for what is unacknowledged."""

    name = "rabbitmq"

    def __init__(self, folder: Path) -> None:
        self._server = RabbitServer(folder)
        self.port = self._server.port
        self._connection = self._server.connect()
        self._connection.connect()
        self._channel = self._connection.channel()

    @property
    def version(self) -> str:
        return str(self._connection.server_properties["version"])

    def url(self, port: int | None = None) -> str:
        return f"amqp://guest:guest@127.0.0.1:{port or self.port}//"

    # -- counts

    def counters(self) -> None:
        return None

    def connected(self) -> int:
        """Count established connections, but for ours."""
        here = f"0100007F:{self.port:04X}"
        lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
        rows = (line.split() for line in lines)
        return sum(row[1] == here and row[3] == "01" for row in rows) - 1

    def cpu_seconds(self) -> float:
        return usage.cpu_seconds(usage.session(self._server.child.pid))

    def held(self) -> int:
        return 0

    def waiting(self, queue: str) -> int:
        declared = self._channel.queue_declare(queue, durable=True, auto_delete=False)
        return int(declared.message_count)

    # -- messages

    def learn(
        self, app: Celery, task: str, payload: str, with_eta: bool, ignore_result: bool
    ) -> None:
        self.waiting(REPLIES)  # declares it
        _send_template(app, task, with_eta, ignore_result)
        message = eventually(
            lambda: self._channel.basic_get(QUEUE, no_ack=True), "the message that Celery sent"
        )
        self._body = _vary_body(bytes(message.body, "utf-8").decode(), payload)
        self._properties = dict(message.properties)
        self._headers = self._properties.pop("application_headers")
        self._argsrepr = _argsrepr(payload)

    def _message(self, number: int, eta: str | None) -> amqp.Message:
        name = task_id(number)
        headers = {
            **self._headers,
            "id": name,
            "root_id": name,
            "argsrepr": self._argsrepr % number,
        }
        if headers["eta"]:
            headers["eta"] = eta
        properties = {**self._properties, "correlation_id": name}
        return amqp.Message(self._body % number, application_headers=headers, **properties)

    def send(self, number: int) -> None:
        self._channel.basic_publish(self._message(number, _ETA), exchange="", routing_key=QUEUE)

    def fill(self, numbers: Iterable[int], eta: str | None = _ETA) -> None:
        publish = self._channel.basic_publish
        for sent, number in enumerate(numbers, 1):
            publish(self._message(number, eta), exchange="", routing_key=QUEUE)
            if not sent % _PUBLISHED_AT_ONCE:
                # The node stops reading from a publisher that is far ahead of it.
                self.waiting(QUEUE)
        # A synchronous call on the same channel: everything before it has arrived.
        self.waiting(QUEUE)

    def clear(self) -> None:
        for queue in (QUEUE, DRAIN, REPLIES):
            self._channel.queue_delete(queue)

    def stop(self) -> None:
        with contextlib.suppress(OSError, amqp.AMQPError):
            self._connection.close()
        self._server.stop()


Broker = Any
"""A :class:`RedisServer` or a :class:`RabbitMQ`."""


@contextlib.contextmanager
def servers(folder: Path, broker: str) -> Iterator[tuple[Broker, RedisServer]]:
    """Start the broker, and Redis for results; on Redis both are one."""
    results = RedisServer(folder / "redis")
    try:
        if broker == "redis":
            yield results, results
            return
        rabbit = RabbitMQ(folder / "rabbitmq")
        try:
            yield rabbit, results
        finally:
            rabbit.stop()
    finally:
        results.stop()


def task_id(number: int) -> str:
    """Return a task's id, from which :func:`task_number` gets its number back."""
    return f"{number:08x}{_ID[8:]}"


def task_number(name: str) -> int:
    return int(name[:8], 16)


def _send_template(app: Celery, task: str, with_eta: bool, ignore_result: bool) -> None:
    # A connection of its own, so that none of ours is left when connections are counted.
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        app.send_task(
            task,
            (987654321,),
            queue=QUEUE,
            task_id=_ID,
            eta=_ETA if with_eta else None,
            reply_to=REPLIES,
            producer=producer,
            # Before 5.7 a worker does as the message says, whatever its own settings are.
            ignore_result=ignore_result,
        )


def _vary_body(body: str, payload: str) -> str:
    args = "%d, " + json.dumps(payload) if payload else "%d"
    return body.replace("%", "%%").replace("987654321", args)


def _argsrepr(payload: str) -> str:
    # Celery cuts it at 1024 characters.
    return f"(%d, '{payload[:1000]}')" if payload else "(%d,)"


def utc(moment: float) -> str:
    """Return a ``time.time()`` as Celery writes an ETA."""
    fraction = f"{moment % 1:.6f}"[1:]
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + fraction + "+00:00"
