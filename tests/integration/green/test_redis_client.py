"""The client that greenlets share does what redis-py's does, for all of them at once."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Callable

import pytest
import redis
from celery.exceptions import SoftTimeLimitExceeded
from kombu import Connection
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry

from hybrid.clients.redis import MultiplexedRedis
from hybrid.hubs.base import Hub

InGreenlets = Callable[..., list[Any]]


def connections(plain: redis.Redis) -> list[str]:
    """The ids of the connections of the client under test: others use this server, too."""
    database = str(plain.connection_pool.connection_kwargs["db"])
    return [
        entry["id"]
        for entry in plain.client_list()
        if (entry["name"], entry["db"]) == ("multiplexed", database)
    ]


def test_replies_are_redis_pys(client: MultiplexedRedis, plain: redis.Redis) -> None:
    for name, args in [
        ("set", ("key", "value")),
        ("get", ("key",)),
        ("get", ("missing",)),
        ("incr", ("count",)),
        ("hset", ("hash", "field", 1)),
        ("hgetall", ("hash",)),
        ("zadd", ("scores", {"a": 1.5})),
        ("zrange", ("scores", 0, -1, False, True)),
        ("expire", ("key", 10)),
        ("exists", ("key", "hash")),
        ("smembers", ("nobody",)),
        ("set", ("key", b"\xff\0" * 100_000)),
        ("get", ("key",)),
    ]:
        plain.flushdb()
        ours = getattr(client, name)(*args)
        plain.flushdb()
        assert ours == getattr(plain, name)(*args), name


def test_a_thousand_greenlets_use_one_connection(
    client: MultiplexedRedis, plain: redis.Redis, in_greenlets: InGreenlets
) -> None:
    assert sorted(in_greenlets(lambda _: client.incr("count"), 1000)) == list(range(1, 1001))
    assert len(connections(plain)) == 1


def test_commands_of_a_turn_are_one_write(
    client: MultiplexedRedis, plain: redis.Redis, in_greenlets: InGreenlets
) -> None:
    client.ping()
    before = plain.info("stats")["total_reads_processed"]
    in_greenlets(lambda number: client.set(f"key{number}", number), 200)
    # Two writes, the `INFO`, and whatever others do on this server.
    assert plain.info("stats")["total_reads_processed"] - before <= 20


def test_an_error_reaches_its_own_caller(
    client: MultiplexedRedis, in_greenlets: InGreenlets
) -> None:
    client.lpush("list", 1)
    outcomes = in_greenlets(lambda number: client.incr("list" if number == 1 else "count"), 3)
    assert isinstance(outcomes[1], redis.ResponseError)
    assert sorted(outcomes[::2]) == [1, 2]


def test_arguments_that_cannot_be_sent_fail_alone(
    client: MultiplexedRedis, in_greenlets: InGreenlets
) -> None:
    outcomes = in_greenlets(lambda number: client.set("key", object() if number == 1 else 1), 3)
    assert isinstance(outcomes[1], redis.DataError)
    assert outcomes[::2] == [True, True]


@pytest.mark.parametrize("transaction", [True, False])
def test_pipelines_are_kept_together(
    client: MultiplexedRedis, in_greenlets: InGreenlets, transaction: bool
) -> None:
    def run(number: int) -> Any:
        pipe = client.pipeline(transaction=transaction)
        return pipe.set("last", number).get("last").lpush("list", number).execute()[:2]

    assert in_greenlets(run, 50) == [[True, str(number).encode()] for number in range(50)]


@pytest.mark.parametrize("transaction", [True, False])
def test_an_error_in_a_pipeline_is_redis_pys(
    client: MultiplexedRedis, plain: redis.Redis, transaction: bool
) -> None:
    def run(on: redis.Redis, raises: bool) -> Any:
        on.lpush("list", 1)
        pipe = on.pipeline(transaction=transaction).set("key", 1).incr("list").incr("key")
        return pipe.execute(raise_on_error=raises)

    errors = []
    for on in (client, plain):
        with pytest.raises(redis.ResponseError) as caught:
            run(on, raises=True)
        errors.append(str(caught.value))
        ok, error, count = run(on, raises=False)
        assert (ok, type(error), count) == (True, redis.ResponseError, 2)
    assert errors[0] == errors[1]


def test_a_refused_transaction_runs_nothing(client: MultiplexedRedis) -> None:
    pipe = client.pipeline()
    pipe.set("key", 1)
    pipe.execute_command("NO-SUCH-COMMAND")
    with pytest.raises(redis.ResponseError, match="unknown command"):
        pipe.execute()
    assert client.get("key") is None
    assert client.ping()


def test_watched_transactions_and_scripts_work(
    client: MultiplexedRedis, in_greenlets: InGreenlets
) -> None:
    def add_one(pipe: Any) -> None:
        count = int(pipe.get("count") or 0)
        pipe.multi()
        pipe.set("count", count + 1)

    in_greenlets(lambda _: client.transaction(add_one, "count"), 8)
    assert client.get("count") == b"8"
    double = client.register_script("return ARGV[1] * 2")
    assert in_greenlets(lambda number: double(args=[number]), 5) == [0, 2, 4, 6, 8]
    pipe = client.pipeline()
    double(args=[21], client=pipe)
    assert pipe.execute() == [42]


def test_a_blocking_command_blocks_nobody_else(
    client: MultiplexedRedis, in_greenlets: InGreenlets, hub: Hub
) -> None:
    def run(number: int) -> Any:
        if number == 0:
            return client.blpop(["queue"], timeout=5)
        hub.sleep(0.05)
        return client.rpush("queue", "item")

    assert in_greenlets(run, 2) == [(b"queue", b"item"), 1]


def test_a_lost_connection_is_an_error_once(
    plain: redis.Redis, in_greenlets: InGreenlets, hub: Hub
) -> None:
    """Of each command that was under way; none of them has been executed, and others go on."""
    pool = redis.ConnectionPool.from_url(
        os.environ["REDIS_URL"], client_name="multiplexed", retry=Retry(NoBackoff(), 0)
    )
    client = MultiplexedRedis(hub=hub, connection_pool=pool)
    client.ping()
    [ours] = connections(plain)

    def run(number: int) -> Any:
        if number < 5:
            return client.incr("count")
        while not any(one["id"] == ours and "b" in one["flags"] for one in plain.client_list()):
            hub.sleep(0.001)
        return plain.execute_command("CLIENT", "KILL", "ID", ours)

    plain.client_pause(20_000, all=False)  # whoever writes waits in the server
    *errors, _ = in_greenlets(run, 6)
    plain.client_unpause()
    assert [type(error) for error in errors] == [redis.ConnectionError] * 5
    assert len({id(error) for error in errors}) == 5
    assert sorted(in_greenlets(lambda _: client.incr("count"), 5)) == [1, 2, 3, 4, 5]
    assert len(connections(plain)) == 1
    client.close()
    pool.disconnect()


def test_what_is_posted_is_executed_before_what_comes_later(
    client: MultiplexedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    client.post([(("SET", "key", 1), {}), (("LPUSH", "key", 1), {})])
    assert client.get("key") == b"1"
    assert "Redis did not execute LPUSH: " in caplog.text


def test_a_native_thread_has_a_connection_of_its_own(client: MultiplexedRedis, hub: Hub) -> None:
    if hub.name != "gevent":
        pytest.skip("eventlet's sockets cannot be used in a native thread")
    import gevent

    assert gevent.get_hub().threadpool.apply(client.execute_command, ("PING",)) is True


def test_what_is_sent_is_executed_before_what_comes_later(
    client: MultiplexedRedis, in_greenlets: InGreenlets, caplog: pytest.LogCaptureFixture
) -> None:
    def run(number: int) -> Any:
        client.send([(("RPUSH", "list", number), {})])
        return client.llen("list")

    assert sorted(in_greenlets(run, 20))[-1] == 20
    client.send([(("INCR", "list"), {})])
    assert client.llen("list") == 20
    assert "Redis did not execute INCR: " in caplog.text


def test_what_is_sent_into_a_lost_connection_is_sent_again(
    client: MultiplexedRedis, plain: redis.Redis, hub: Hub
) -> None:
    client.ping()
    [ours] = connections(plain)
    plain.execute_command("CLIENT", "KILL", "ID", ours)
    client.send([(("SET", "key", 1), {})])
    hub.sleep(0.01)
    assert client.get("key") == b"1"


def test_what_cannot_be_sent_is_the_senders_error(client: MultiplexedRedis) -> None:
    with pytest.raises(redis.DataError):
        client.send([(("SET", "key", object()), {})])
    assert client.ping()


def test_replies_that_nobody_read_are_nobody_elses(
    client: MultiplexedRedis, plain: redis.Redis
) -> None:
    plain.set("key", "value")
    client.send([(("INCR", "count"), {})])
    client.close()
    assert client.get("key") == b"value"
    assert client.connection_pool.get_connection().can_read(timeout=0) is False
    assert plain.get("count") == b"1"


def own_values(hub: Hub, client: MultiplexedRedis) -> list[Any]:
    """Set and get 5 000 own values in 100 greenlets under limits; return the wrong answers."""
    wrong: list[Any] = []
    greenlets: list[Any] = []
    left = [100]
    limits = [0]

    def run(number: int) -> None:
        for turn in range(50):
            key = f"{number}:{turn}"
            value = key * (20_000 if turn % 25 == 0 else 1)
            try:
                if client.set(key, value) is not True:
                    wrong.append(key)
                got = client.get(key)
            except SoftTimeLimitExceeded:
                limits[0] += 1
                continue
            if got not in (value, value.encode()):
                wrong.append((key, got))
        left[0] -= 1

    def limit() -> None:
        chosen = Random(7).choice(greenlets)
        if not chosen.dead and left[0]:
            hub.interrupt(chosen, SoftTimeLimitExceeded())
        if left[0]:
            hub.call_later(0.002, limit)

    greenlets += [hub.spawn(run, number) for number in range(100)]
    hub.sleep(0.01)
    hub.call_soon(limit)
    while left[0]:
        hub.sleep(0.01)
    assert limits[0]
    return wrong


class Token:
    """A password, with the methods that redis-py asks of a token."""

    def __init__(self, user: str, password: str) -> None:
        self._user, self._password = user, password

    def try_get(self, _: str) -> str:
        return self._user

    def get_value(self) -> str:
        return self._password


class Tokens(CredentialProvider):  # type: ignore[misc]
    """Gives a new password whenever it is told to, as a cloud's identity service does."""

    def __init__(self) -> None:
        self.number = 0
        self.listeners: list[Callable[[Any], None]] = []

    def get_credentials(self) -> tuple[str, str]:
        return "tokens", f"password{self.number}"

    def on_next(self, listener: Callable[[Any], None]) -> None:
        self.listeners.append(listener)

    def on_error(self, listener: Callable[[Exception], None]) -> None:
        pass

    def is_streaming(self) -> bool:
        return True

    def renew(self) -> None:
        self.number += 1
        for listener in self.listeners:
            listener(Token(*self.get_credentials()))


@pytest.mark.parametrize("decodes", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
def test_everybody_gets_their_own_beside_what_redis_py_does_by_itself(
    hub: Hub, plain: redis.Redis, protocol: int, decodes: bool
) -> None:
    passwords = [f"+password{number}" for number in range(1000)]
    plain.acl_setuser(
        "tokens", enabled=True, reset=True, passwords=passwords, keys="*", commands=["+@all"]
    )
    tokens = Tokens()
    options = plain.connection_pool.connection_kwargs
    client = MultiplexedRedis(
        hub=hub,
        connection_pool=redis.ConnectionPool(
            **{name: options[name] for name in ("host", "port", "db")},
            client_name="multiplexed",
            credential_provider=tokens,
            protocol=protocol,
            decode_responses=decodes,
            health_check_interval=0.05,
            socket_timeout=30,
            retry_on_timeout=True,
        ),
    )
    is_over = False

    def renew() -> None:
        tokens.renew()
        if not is_over:
            hub.call_later(0.02, renew)

    client.ping()
    plain.config_resetstat()
    renew()
    assert own_values(hub, client) == []
    is_over = True
    assert client.ping()
    assert len(connections(plain)) == 1
    assert plain.info("commandstats")["cmdstat_auth"]["calls"] >= 5
    assert client.statistics()["ended"] == {}
    client.close()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Options for a server that speaks TLS, and listens on a unix socket."""
    openssl, server = shutil.which("openssl"), shutil.which("redis-server")
    if openssl is None or server is None:
        pytest.skip("openssl or redis-server is missing")
    folder: Path = tmp_path_factory.mktemp("tls")
    key, certificate, path = folder / "key", folder / "certificate", folder / "socket"
    subprocess.run(
        f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {certificate} "
        "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1".split(),
        check=True,
        stderr=subprocess.DEVNULL,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = subprocess.Popen(
        [
            *f"{server} --port 0 --tls-port {port} --bind 127.0.0.1 --dir {folder}".split(),
            *f"--tls-cert-file {certificate} --tls-key-file {key}".split(),
            *f"--tls-ca-cert-file {certificate} --tls-auth-clients no".split(),
            *f"--unixsocket {path} --save".split(),
            "",
        ],
        stdout=subprocess.DEVNULL,
    )
    while not path.exists():
        assert child.poll() is None
        time.sleep(0.01)
    yield {
        "tls": {
            "connection_class": redis.SSLConnection,
            "port": port,
            "host": "127.0.0.1",
            "ssl_ca_certs": str(certificate),
        },
        "unix": {"connection_class": redis.UnixDomainSocketConnection, "path": str(path)},
    }
    child.kill()
    child.wait()


@pytest.mark.parametrize("way", ["tls", "unix"])
def test_everybody_gets_their_own_by_tls_and_by_a_unix_socket(
    hub: Hub, elsewhere: dict[str, Any], way: str
) -> None:
    client = MultiplexedRedis(hub=hub, connection_pool=redis.ConnectionPool(**elsewhere[way]))
    assert own_values(hub, client) == []
    statistics = client.statistics()
    assert (statistics["opened"], statistics["ended"]) == (1, {})
    client.close()


class Named(CredentialProvider):  # type: ignore[misc]
    """Named in a URL, so that kombu makes one for each channel."""

    def get_credentials(self) -> tuple[str]:
        return ("",)


def test_a_credential_provider_that_is_named_costs_one_connection_for_all_channels(
    hub: Hub, plain: redis.Redis
) -> None:
    options = plain.connection_pool.connection_kwargs
    url = f"redis://127.0.0.1:{options['port']}/{options['db']}"
    name = f"{Named.__module__}.{Named.__qualname__}"
    with (
        Connection(
            url, transport="hybrid.transports.redis:Transport", credential_provider=name
        ) as one,
        Connection(
            url, transport="hybrid.transports.redis:Transport", credential_provider=name
        ) as other,
    ):
        clients = {
            channel._shared(hub) for channel in (one.channel(), one.channel(), other.channel())
        }
    assert len(clients) == 1
