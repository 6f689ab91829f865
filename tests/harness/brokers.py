"""A real Redis and a real RabbitMQ, each on free loopback ports in a temporary folder.

Both start on first use, serve the whole session, and are stopped by pid. Tests are kept apart by a
:class:`Space`: an own Redis database, and own names for queues and exchanges on RabbitMQ.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import amqp
import redis

from .processes import Child, EmbeddedRedis, free_port
from .waiting import eventually

RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Not the one on ``PATH``: that one drops to the user ``rabbitmq``, who cannot read our folder."""

_REDIS_DATABASES = 4096
#: What the server is started with and its command line tool would trip over.
_SERVER_ONLY = ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "RABBITMQ_DIST_PORT", "RABBITMQ_PID_FILE")


class MissingServerError(Exception):
    """A broker is not installed; the text names the Debian package."""


class RedisServer:
    """One ``redis-server`` without persistence."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise MissingServerError("redis-server is missing: apt-get install redis-server")
        folder.mkdir(parents=True, exist_ok=True)
        self._databases = itertools.count()
        self.child = EmbeddedRedis(
            folder,
            [
                *("--databases", str(_REDIS_DATABASES), "--loglevel", "notice"),
                *("--client-query-buffer-limit", "256mb"),
            ],
            binary,
        )
        self.port = self.child.port

    def new_database(self) -> str:
        """Return the URL of a database that no test has used."""
        return f"redis://127.0.0.1:{self.port}/{next(self._databases)}"

    def stop(self) -> None:
        self.child.stop()


class RabbitServer:
    """One RabbitMQ node with its own epmd, cookie, data and distribution port."""

    def __init__(self, folder: Path) -> None:
        if not RABBITMQ_SERVER.exists():
            raise MissingServerError(
                f"{RABBITMQ_SERVER} is missing: apt-get install rabbitmq-server"
            )
        epmd = shutil.which("epmd")
        if epmd is None:
            raise MissingServerError("epmd is missing: apt-get install erlang-base")
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self._epmd_port, dist_port = free_port(), free_port(), free_port()
        self.tls_port, self.certificate = free_port(), folder / "certificate.pem"
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.port}\n"
            # 50 MB bodies and a nearly full disk on a build machine must not block publishers.
            "disk_free_limit.absolute = 50MB\n"
            "vm_memory_high_watermark.relative = 0.6\n"
            "log.file.level = warning\n"
            f"listeners.ssl.default = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {self.certificate}\n"
            f"ssl_options.certfile = {self.certificate}\n"
            f"ssl_options.keyfile = {make_certificate(self.certificate)}\n"
            "ssl_options.verify = verify_none\n"
        )
        (folder / "plugins").write_text("[].\n")
        env = {
            **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"hybrid{self.port}@localhost",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1"
            ),
            # Makes the script `exec` the Erlang VM, so that our child is the broker itself.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        self._env = env
        # In the foreground and ours: started by the VM it would be a daemon nobody stops.
        self.epmd = Child(
            [epmd, "-address", "127.0.0.1", "-port", str(self._epmd_port)],
            log=folder / "epmd.log",
            env=env,
        )
        eventually(lambda: _listens(self._epmd_port), f"epmd, see {self.epmd.log}")
        self.child = Child([str(RABBITMQ_SERVER)], log=folder / "rabbitmq.log", env=env)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self.tls_url = f"amqps://guest:guest@127.0.0.1:{self.tls_port}//"
        try:
            eventually(self._answers, f"RabbitMQ, see {self.child.log}", within=90, every=0.1)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        if not self.child.running:
            raise RuntimeError(f"RabbitMQ ended while starting:\n{self.child.tail()}")
        try:
            with self.connect():
                return True
        except (OSError, amqp.AMQPError):
            return False

    def connect(self) -> amqp.Connection:
        return amqp.Connection(f"127.0.0.1:{self.port}", heartbeat=0, read_timeout=30)

    def control(self, *command: str) -> str:
        """Run ``rabbitmqctl`` and return what it prints.

        Raises:
            RuntimeError: It failed.
        """
        return run_rabbitmqctl(self.control_environment, *command)

    @property
    def control_environment(self) -> dict[str, str]:
        """What :func:`run_rabbitmqctl` needs to talk to this node."""
        return {key: value for key, value in self._env.items() if key not in _SERVER_ONLY}

    def stop(self) -> None:
        # Its data dies with the folder, so there is nothing to flush.
        self.child.stop(within=3)
        self.epmd.stop(within=2)


def run_rabbitmqctl(environment: Mapping[str, str], *command: str) -> str:
    """Run ``rabbitmqctl`` and return what it prints.

    Args:
        environment: A node's :attr:`RabbitServer.control_environment`.
        command: The command and its arguments.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run(
        [str(RABBITMQ_SERVER.with_name("rabbitmqctl")), "--quiet", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    if done.returncode:
        raise RuntimeError(f"rabbitmqctl {' '.join(command)} failed:\n{done.stdout}")
    return done.stdout


def make_certificate(path: Path) -> Path:
    """Write a certificate for 127.0.0.1 that signs itself, and return the path of its key."""
    if shutil.which("openssl") is None:
        raise MissingServerError("openssl is missing: apt-get install openssl")
    key = path.with_suffix(".key")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    return key


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Queue:
    """What waits in one queue, seen from outside Celery."""

    def __init__(self, space: Space, name: str) -> None:
        self._space = space
        self.name = name

    def ready(self) -> int:
        """Count the messages that no worker holds."""
        if self._space.rabbit is None:
            return sum(int(self._space.redis.llen(key)) for key in self._redis_lists())
        return len(self) if self.exists() else 0

    def _redis_lists(self) -> Iterator[str]:
        yield self.name
        for priority in (3, 6, 9):
            yield f"{self.name}\x06\x16{priority}"

    def exists(self) -> bool:
        assert self._space.rabbit is not None
        with self._space.rabbit.connect() as connection:
            try:
                connection.channel().queue_declare(self.name, passive=True)
            except amqp.NotFound:
                return False
            return True

    def __len__(self) -> int:
        assert self._space.rabbit is not None
        with self._space.rabbit.connect() as connection:
            count: int = connection.channel().queue_declare(self.name, passive=True).message_count
            return count

    def push(self, body: bytes, **properties: Any) -> None:
        """Put raw bytes where the worker reads: a list item in Redis, a body on RabbitMQ.

        Args:
            body: On Redis the whole envelope, on RabbitMQ the message body.
            properties: RabbitMQ only: AMQP basic properties, ``application_headers`` included.
        """
        if self._space.rabbit is None:
            self._space.redis.lpush(self.name, body)
            return
        with self._space.rabbit.connect() as connection:
            message = amqp.Message(body, **properties)
            connection.channel().basic_publish(message, exchange="", routing_key=self.name)


@dataclass
class Space:
    """A corner of the brokers that one test, or one shared worker, has to itself."""

    broker: str
    redis_url: str
    rabbit: RabbitServer | None
    name: str
    redis: redis.Redis = field(repr=False)

    @property
    def settings(self) -> dict[str, Any]:
        """Celery settings that keep a worker and its clients inside this space."""
        return {
            "broker_url": self.redis_url if self.rabbit is None else self.rabbit.url,
            "result_backend": self.redis_url,
            "task_default_queue": self.name,
            "task_default_exchange": self.name,
            "task_default_routing_key": self.name,
            "control_exchange": f"{self.name}.control",
            "event_exchange": f"{self.name}.events",
            "event_queue_prefix": f"{self.name}.events",
        }

    def queue(self, name: str | None = None) -> Queue:
        return Queue(self, name or self.name)

    def unacked(self) -> int:
        """Count what workers hold; Redis only, RabbitMQ shows it to its management API alone."""
        assert self.rabbit is None
        return int(self.redis.hlen("unacked"))


class Brokers:
    """Starts each broker when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._redis: RedisServer | None = None
        self._rabbit: RabbitServer | None = None
        self._numbers = itertools.count()
        self.started: dict[str, float] = {}

    @property
    def rabbit(self) -> RabbitServer:
        """The RabbitMQ of this session."""
        if self._rabbit is None:
            began = time.monotonic()
            self._rabbit = RabbitServer(self._folder / "rabbitmq")
            self.started["rabbitmq"] = time.monotonic() - began
        return self._rabbit

    @property
    def redis(self) -> RedisServer:
        """The Redis of this session."""
        if self._redis is None:
            began = time.monotonic()
            self._redis = RedisServer(self._folder / "redis")
            self.started["redis"] = time.monotonic() - began
        return self._redis

    def space(self, broker: str) -> Space:
        """Return a fresh space on ``broker`` (``redis`` or ``rabbitmq``)."""
        rabbit = self.rabbit if broker == "rabbitmq" else None
        url = self.redis.new_database()
        return Space(
            broker=broker,
            redis_url=url,
            rabbit=rabbit,
            name=f"space{next(self._numbers)}",
            redis=redis.Redis.from_url(url),
        )

    def stop(self) -> None:
        for server in (self._rabbit, self._redis):
            if server is not None:
                server.stop()
