"""Calls on a Redis connection, against a server that says what the test wants.

The server is the other end of a pair of sockets. So each test decides what has been answered, and
what has not, when a limit strikes or the connection is lost.
"""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Iterator
from typing import Any, Callable

import pytest
import redis
from celery.exceptions import SoftTimeLimitExceeded
from harness.greenlets import in_greenlets
from redis.connection import AbstractConnection

from hybrid import JobKilled
from hybrid.clients.redis import MultiplexedRedis, session
from hybrid.clients.redis.call import SENDS
from hybrid.hubs.base import Greenlet, Hub

OK = b"+OK\r\n"


def packed(*args: str) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(
        b"$%d\r\n%b\r\n" % (len(arg), arg.encode()) for arg in args
    )


#: Options with which redis-py does not say who it is.
SILENT = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection).parameters
    else {"lib_name": None, "lib_version": None}
)

GET_A, GET_B, DEL_A = packed("GET", "a"), packed("GET", "b"), packed("DEL", "a")


class Server:
    """Takes connections, and speaks when it is told to."""

    def __init__(self) -> None:
        self.ends: list[Any] = []
        self.is_down = False

    def accept(self) -> Any:
        if self.is_down:
            raise ConnectionRefusedError("down")
        near, far = socket.socketpair()
        far.settimeout(5)
        self.ends.append(far)
        return near

    @property
    def end(self) -> Any:
        return self.ends[-1]

    def expect(self, data: bytes) -> None:
        received = b""
        while len(received) < len(data):
            more = self.end.recv(len(data) - len(received))
            assert more, received
            received += more
        assert received == data

    def expect_nothing(self) -> None:
        self.end.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.end.recv(1)
        self.end.setblocking(True)
        self.end.settimeout(5)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def make_client(hub: Hub, server: Server) -> Iterator[Callable[..., MultiplexedRedis]]:
    class Pair(redis.Connection):  # type: ignore[misc]
        def _connect(self) -> Any:
            return server.accept()

    clients = []

    def make(**options: Any) -> MultiplexedRedis:
        # Nothing is said before the first call.
        silent: dict[str, Any] = {"protocol": 2, **SILENT, **options}
        pool = redis.ConnectionPool(connection_class=Pair, **silent)
        clients.append(MultiplexedRedis(hub=hub, connection_pool=pool))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
    for end in server.ends:
        end.close()
    hub.sleep(0)


@pytest.fixture
def client(make_client: Callable[..., MultiplexedRedis]) -> MultiplexedRedis:
    return make_client()


class Asker:
    """One greenlet with one call."""

    def __init__(self, hub: Hub, run: Callable[..., Any], *args: Any) -> None:
        self._hub = hub
        self.outcome: Any = None
        self.greenlet: Greenlet = hub.spawn(self._run, run, args)

    def _run(self, run: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            self.outcome = [run(*args)]
        except BaseException as exc:
            self.outcome = exc

    def interrupt(self, exc: type[BaseException] | BaseException) -> None:
        self._hub.call_soon(self._hub.interrupt, self.greenlet, exc)
        self.wait()

    def wait(self) -> Any:
        for _ in range(1000):
            if self.outcome is not None:
                return self.outcome
            self._hub.sleep(0.001)
        raise AssertionError("no outcome")


def turns(hub: Hub) -> None:
    """Let everything happen that waits for no clock; the hub polls each time, with a timer."""
    for _ in range(8):
        hub.sleep(0.0005)


def get(hub: Hub, client: MultiplexedRedis, key: str) -> Asker:
    return Asker(hub, client.get, key)


def statistics(client: MultiplexedRedis) -> Any:
    return client.statistics()["connection"]


def test_a_write_waits_for_nobodys_reply(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    first = get(hub, client, "a")
    turns(hub)
    second = get(hub, client, "b")
    hub.sleep(0)
    client.send([(("DEL", "a"), {})])
    server.expect(GET_A)
    server.expect(GET_B + DEL_A)
    server.end.sendall(b"$1\r\nA\r\n$1\r\nB\r\n:1\r\n")
    assert first.wait() == [b"A"]
    assert second.wait() == [b"B"]


def test_calls_of_one_turn_are_one_write(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    askers = [get(hub, client, "a") for _ in range(50)]
    turns(hub)
    server.expect(GET_A * 50)
    assert statistics(client)["writes"] == 1
    assert statistics(client)["unanswered"] == 50
    server.end.sendall(b"".join(b"$2\r\n%02d\r\n" % number for number in range(50)))
    assert [asker.wait() for asker in askers] == [[b"%02d" % number] for number in range(50)]


def test_replies_come_in_any_pieces(hub: Hub, client: MultiplexedRedis, server: Server) -> None:
    askers = [get(hub, client, key) for key in "ab"]
    turns(hub)
    for byte in b"$1\r\nA\r\n$1\r\nB\r\n":
        server.end.sendall(bytes([byte]))
        hub.sleep(0)
    assert [asker.wait() for asker in askers] == [[b"A"], [b"B"]]


def test_a_push_is_no_reply(hub: Hub, client: MultiplexedRedis, server: Server) -> None:
    asker = get(hub, client, "a")
    turns(hub)
    server.end.sendall(b">2\r\n+invalidate\r\n*1\r\n+a\r\n$1\r\nA\r\n>1\r\n+later\r\n")
    assert asker.wait() == [b"A"]
    turns(hub)
    assert client.statistics()["ended"] == {}


def test_a_reply_that_nobody_asked_for_ends_the_connection(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    asker = get(hub, client, "a")
    turns(hub)
    server.end.sendall(b"$1\r\nA\r\n$1\r\nB\r\n")
    assert asker.wait() == [b"A"]
    turns(hub)
    assert client.statistics()["ended"] == {"ConnectionError": 1}
    asker = get(hub, client, "b")
    turns(hub)
    assert len(server.ends) == 2
    server.expect(GET_B)
    server.end.sendall(b"$1\r\nB\r\n")
    assert asker.wait() == [b"B"]


def test_what_is_no_protocol_ends_the_connection(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    asker = get(hub, client, "a")
    turns(hub)
    server.end.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert isinstance(asker.wait(), redis.ConnectionError)


@pytest.mark.parametrize("exc", [SoftTimeLimitExceeded(), JobKilled(), ValueError("the user's")])
def test_whoever_is_ended_leaves_no_reply_to_the_next(
    hub: Hub, client: MultiplexedRedis, server: Server, exc: BaseException
) -> None:
    ended, other = get(hub, client, "a"), get(hub, client, "b")
    turns(hub)
    ended.interrupt(exc)
    assert ended.outcome is exc
    server.end.sendall(b"$1\r\nA\r\n$1\r\nB\r\n")
    assert other.wait() == [b"B"]
    late = get(hub, client, "b")
    turns(hub)
    server.end.sendall(b"$1\r\nC\r\n")
    assert late.wait() == [b"C"]
    assert len(server.ends) == 1


def test_whoever_is_ended_before_there_is_a_connection_has_nothing_sent(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    ended, other = get(hub, client, "a"), get(hub, client, "b")
    hub.call_soon(hub.interrupt, ended.greenlet, SoftTimeLimitExceeded())
    original = server.accept
    # Opening takes longer than that.
    server.accept = lambda: (turns(hub), original())[1]  # type: ignore[method-assign]
    ended.wait()
    turns(hub)
    turns(hub)
    server.expect(GET_B)
    server.end.sendall(b"$1\r\nB\r\n")
    assert other.wait() == [b"B"]


def test_a_loss_costs_reads_and_nothing_that_may_be_sent_again(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    read, ended = get(hub, client, "a"), get(hub, client, "b")
    turns(hub)
    client.send([(("DEL", "a"), {})])
    client.post([(("DEL", "b"), {})])
    turns(hub)
    ended.interrupt(SoftTimeLimitExceeded())
    server.end.close()
    assert isinstance(read.wait(), redis.ConnectionError)
    turns(hub)
    server.expect(DEL_A + packed("DEL", "b"))
    server.expect_nothing()
    server.end.sendall(b":1\r\n:1\r\n")
    turns(hub)
    assert statistics(client)["unanswered"] == 0
    assert client.statistics()["ended"] == {"ConnectionError": 1}


def test_what_was_never_written_is_sent_on_the_next_connection(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    asker = get(hub, client, "a")
    turns(hub)
    server.end.sendall(b"$1\r\nA\r\n")
    asker.wait()
    server.end.close()
    unwritten = get(hub, client, "b")
    turns(hub)
    server.expect(GET_B)
    server.end.sendall(b"$1\r\nB\r\n")
    assert unwritten.wait() == [b"B"]


def test_a_call_is_not_sent_for_ever(
    hub: Hub, client: MultiplexedRedis, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    client.post([(("DEL", "a"), {})])
    for number in range(SENDS):
        while len(server.ends) == number:
            hub.sleep(0.001)
        server.expect(DEL_A)
        server.end.close()
    while client.statistics()["ended"].get("ConnectionError", 0) < SENDS:
        hub.sleep(0.001)
    assert client.statistics()["pending"] == 0
    assert len(server.ends) == SENDS
    assert "Redis did not execute DEL: ConnectionError" in caplog.text


def test_what_nobody_waits_for_is_kept_while_there_is_no_server(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    server.is_down = True
    client.post([(("DEL", "a"), {})])
    with pytest.raises(redis.ConnectionError):
        client.get("b")
    with pytest.raises(redis.ConnectionError):
        client.send([(("DEL", "b"), {})])
    assert client.statistics()["pending"] == 1
    server.is_down = False
    asker = get(hub, client, "b")  # and nobody waits for the pause to end
    while not server.ends:
        hub.sleep(0.001)
    server.expect(DEL_A + GET_B)
    server.end.sendall(b":1\r\n$1\r\nB\r\n")
    assert asker.wait() == [b"B"]


def test_beyond_the_bound_acknowledgements_go_first(
    hub: Hub, client: MultiplexedRedis, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CALLS", 2)
    first = [get(hub, client, "a") for _ in range(2)]
    turns(hub)
    server.expect(GET_A * 2)
    late = get(hub, client, "b")
    ended = get(hub, client, "b")
    ack = Asker(hub, client.send, [(("DEL", "a"), {})])
    turns(hub)
    server.expect_nothing()
    assert client.statistics()["waiting"] == 3
    ended.interrupt(SoftTimeLimitExceeded())
    server.end.sendall(b"$1\r\nA\r\n")
    assert ack.wait() == [None]
    server.expect(DEL_A)
    server.expect_nothing()
    server.end.sendall(b"$1\r\nA\r\n:1\r\n")
    turns(hub)
    server.expect(GET_B)
    server.end.sendall(b"$1\r\nB\r\n")
    assert late.wait() == [b"B"]
    assert all(asker.wait() == [b"A"] for asker in first)
    assert client.statistics()["waiting"] == 0


def test_a_full_socket_is_written_by_nobody_who_can_be_ended(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    value = "x" * 2**22
    large = Asker(hub, client.set, "large", value)
    turns(hub)
    after = get(hub, client, "a")
    sender = Asker(hub, client.send, [(("DEL", "a"), {})])
    turns(hub)
    assert statistics(client)["unsent"] > 0
    large.interrupt(SoftTimeLimitExceeded())
    assert sender.outcome is None
    server.expect(packed("SET", "large", value) + GET_A + DEL_A)
    assert sender.wait() == [None]
    server.end.sendall(OK + b"$1\r\nA\r\n:1\r\n")
    assert after.wait() == [b"A"]


def test_a_connection_that_is_lost_while_the_socket_is_full_resumes_everybody(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    large = Asker(hub, client.set, "large", "x" * 2**22)
    turns(hub)
    sender = Asker(hub, client.send, [(("DEL", "a"), {})])
    turns(hub)
    server.end.close()
    assert isinstance(large.wait(), redis.ConnectionError)
    assert sender.wait() == [None]
    server.expect(DEL_A)


def test_a_reply_that_is_late_ends_the_connection_and_silence_does_not(
    hub: Hub, make_client: Callable[..., MultiplexedRedis], server: Server
) -> None:
    client = make_client(socket_timeout=0.05)
    asker = get(hub, client, "a")
    turns(hub)
    server.end.sendall(b"$1\r\nA\r\n")
    assert asker.wait() == [b"A"]
    hub.sleep(0.15)
    assert client.statistics()["ended"] == {}
    assert isinstance(get(hub, client, "b").wait(), redis.TimeoutError)
    assert client.statistics()["ended"] == {"TimeoutError": 1}


def test_the_health_check_is_a_call_in_the_line(
    hub: Hub, make_client: Callable[..., MultiplexedRedis], server: Server
) -> None:
    client = make_client(health_check_interval=0.05)
    asker = get(hub, client, "a")
    while not server.ends:
        hub.sleep(0.001)
    server.expect(GET_A)
    server.end.sendall(b"$1\r\nA\r\n")
    assert asker.wait() == [b"A"]
    server.expect(packed("PING"))
    asker = get(hub, client, "b")
    server.expect(GET_B)
    server.end.sendall(b"+PONG\r\n$1\r\nB\r\n")
    assert asker.wait() == [b"B"]


def test_a_transaction_is_one_unit(hub: Hub, client: MultiplexedRedis, server: Server) -> None:
    def run() -> Any:
        return client.pipeline(transaction=True).get("a").get("b").execute()

    transaction, other = Asker(hub, run), get(hub, client, "a")
    turns(hub)
    server.expect(packed("MULTI") + GET_A + GET_B + packed("EXEC") + GET_A)
    server.end.sendall(OK + b"+QUEUED\r\n+QUEUED\r\n*2\r\n$1\r\nA\r\n$1\r\nB\r\n" + b"$1\r\nC\r\n")
    assert transaction.wait() == [[b"A", b"B"]]
    assert other.wait() == [b"C"]


def test_a_server_that_is_loading_is_a_lost_connection(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    client.post([(("DEL", "a"), {})])
    asker = get(hub, client, "a")
    turns(hub)
    server.end.sendall(b"-LOADING Redis is loading the dataset in memory\r\n")
    assert isinstance(asker.wait(), redis.ConnectionError)
    turns(hub)
    server.expect(DEL_A)


def test_a_forked_child_neither_writes_nor_reads_what_is_its_parents(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    asker = get(hub, client, "a")
    turns(hub)
    server.expect(GET_A)
    client.post([(("DEL", "a"), {})])
    pid = os.fork()
    if pid == 0:
        turns(hub)  # what the parent has posted would be written now
        os._exit(0 if client.statistics()["connection"] is None else 1)
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        hub.sleep(0.001)
    server.expect(DEL_A)
    server.expect_nothing()
    server.end.sendall(b"$1\r\nA\r\n:1\r\n")
    assert asker.wait() == [b"A"]


def test_a_client_that_nobody_uses_reads_its_answers_and_goes(
    hub: Hub, make_client: Callable[..., MultiplexedRedis], server: Server
) -> None:
    client = make_client()
    client.post([(("DEL", "a"), {})])
    client.close()
    while not server.ends:
        hub.sleep(0.001)
    server.expect(DEL_A)


def test_many_at_once_each_get_their_own(
    hub: Hub, client: MultiplexedRedis, server: Server
) -> None:
    def serve() -> None:
        data = b""
        while True:
            data += server.end.recv(2**16)
            *commands, data = data.split(b"*2\r\n$3\r\nGET\r\n")
            whole = [command for command in commands if command]
            if data.endswith(b"\r\n") and data.count(b"\r\n") == 2:
                whole, data = [*whole, data], b""
            elif data:
                data = b"*2\r\n$3\r\nGET\r\n" + data
            server.end.sendall(b"".join(whole))  # a key is its own value

    while not server.ends:
        if not statistics(client):
            warm = get(hub, client, "0")
            turns(hub)
    hub.spawn(serve)
    assert warm.wait() == [b"0"]
    assert in_greenlets(hub, lambda number: client.get(str(number)), 500) == [
        str(number).encode() for number in range(500)
    ]
