"""A TCP proxy in threads of the test process: it can delay, hold back and cut what goes through.

What is done to a connection depends on what was said on it, not on the clock: a reply can be cut
off from its command, and replies can be held until the test has seen what happens without them.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Callable
from urllib.parse import urlsplit, urlunsplit

_READ_BYTES = 1 << 18
#: With this, closing sends a reset, as when a host is gone, and drops what has not been sent.
_RESET = struct.pack("ii", 1, 0)

#: Sees bytes before they go on, and says whether they may.
_Look = Callable[[bytes], bool]


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, near: socket.socket, far: socket.socket) -> None:
        self._proxy = proxy
        self._near, self._far = near, far
        #: Where the server sees the connection come from.
        self.address: tuple[str, int] = far.getsockname()
        #: The bytes that the client sent last.
        self.last_sent = b""
        self.is_open = True
        #: Whether the next bytes of the server are lost with the connection.
        self.is_doomed = False
        self._ends = 0
        for side in (near, far):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._there = _Pipe(self, near, far, proxy.delay, self._on_sent)
        self._back = _Pipe(self, far, near, proxy.delay, self._on_reply)
        for pipe in (self._there, self._back):
            pipe.start()

    def _on_sent(self, data: bytes) -> bool:
        self.last_sent = data
        self._proxy._on_sent(self, data)
        return not self._proxy.is_dead

    def _on_reply(self, data: bytes) -> bool:
        if self.is_doomed:
            self._proxy._on_cut()
            self.cut()
            return False
        return not self._proxy.is_dead and self._proxy._on_reply(self, data)

    def end(self) -> None:
        """Close both sides when both have said that nothing follows."""
        self._ends += 1
        if self._ends == 2:
            self.is_open = False
            self._near.close()
            self._far.close()

    def pass_on(self, data: bytes) -> None:
        """Send to the client what was held back."""
        self._back.put(data)

    def cut(self) -> None:
        """Reset the connection on both sides; what is under way is lost."""
        self.is_open = False
        for side in (self._near, self._far):
            with contextlib.suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with contextlib.suppress(OSError):
                # A thread that waits in `recv` would keep the socket from being closed.
                side.shutdown(socket.SHUT_RDWR)
            side.close()


class _Pipe:
    """Bytes from ``source`` to ``sink``, each ``delay`` after it came, however many there are."""

    def __init__(
        self, link: Link, source: socket.socket, sink: socket.socket, delay: float, look: _Look
    ) -> None:
        self._link = link
        self._source, self._sink = source, sink
        self._delay = delay
        self._look = look
        self._under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def start(self) -> None:
        for run in (self._read, self._write):
            threading.Thread(target=run, name="proxy", daemon=True).start()

    def put(self, data: bytes) -> None:
        self._under_way.put((time.monotonic() + self._delay, data))

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._source.recv(_READ_BYTES):
                if self._look(data):
                    self.put(data)
        self.put(b"")

    def _write(self) -> None:
        while True:
            due, data = self._under_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not data:
                    self._sink.shutdown(socket.SHUT_WR)
                    self._link.end()
                    return
                self._sink.sendall(data)
            except OSError:
                self._link.cut()
                return


class Proxy:
    """Listens on a free loopback port and connects to ``target``.

    Args:
        target: A loopback port.
        delay: Seconds that bytes take, each way.
    """

    def __init__(self, target: int, delay: float = 0.0) -> None:
        self.delay = delay
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._links: list[Link] = []
        self._doom: bytes | None = None
        self._dooms = 0
        #: When replies were cut off from their commands, monotonic.
        self.cut_at: list[float] = []
        self._trigger: bytes | None = None
        self._is_holding = False
        self._held: list[tuple[Link, bytes]] = []
        #: Whether new connections are closed at once.
        self.is_refusing = False
        #: Whether nothing gets through any more, and nobody is told, as when a host is gone.
        self.is_dead = False
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.is_refusing:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                link = Link(self, near, far)
                with self._lock:
                    self._links = [one for one in self._links if one.is_open] + [link]

    @property
    def links(self) -> list[Link]:
        """The connections that are open."""
        with self._lock:
            return [link for link in self._links if link.is_open]

    def lose_all(self, is_refusing: bool = False) -> None:
        """Cut all connections, and refuse new ones if asked to."""
        self.is_refusing = is_refusing
        for link in self.links:
            link.cut()

    # -- cutting replies off

    def cut_reply_to(self, command: bytes, times: int = 1) -> None:
        """Cut the next connections that send ``command``, once the server has begun to answer."""
        self._doom, self._dooms = command, times

    @property
    def is_armed(self) -> bool:
        """Whether a command is still waited for whose reply is to be cut off."""
        return self._doom is not None

    def _on_sent(self, link: Link, data: bytes) -> None:
        with self._lock:
            if self._doom is not None and self._doom in data:
                self._dooms -= 1
                if not self._dooms:
                    self._doom = None
                link.is_doomed = True

    def _on_cut(self) -> None:
        self.cut_at.append(time.monotonic())

    # -- holding replies back

    def hold_after(self, word: bytes) -> None:
        """Let the next bytes of the server with ``word`` pass, and hold back all behind them."""
        with self._lock:
            self._trigger = word

    def hold(self) -> None:
        """Hold back all that servers send from now on, on new connections as well."""
        with self._lock:
            self._is_holding = True

    @property
    def is_holding(self) -> bool:
        """Whether what was waited for has passed."""
        return self._is_holding

    @property
    def held(self) -> int:
        """Count the replies that are held back."""
        with self._lock:
            return len(self._held)

    def holds(self, word: bytes) -> bool:
        """Whether a reply with ``word`` is held back."""
        with self._lock:
            return any(word in data for _, data in self._held)

    def release(self, all_of_them: bool = False) -> int:
        """Let the oldest reply pass, or all and whatever follows; return how many those were."""
        with self._lock:
            count = len(self._held) if all_of_them else min(1, len(self._held))
            passed, self._held = self._held[:count], self._held[count:]
            if all_of_them:
                self._is_holding, self._trigger = False, None
            for link, data in passed:
                link.pass_on(data)
        return count

    def _on_reply(self, link: Link, data: bytes) -> bool:
        with self._lock:
            if self._is_holding:
                self._held.append((link, data))
                return False
            if self._trigger is not None and self._trigger in data:
                self._trigger = None
                self._is_holding = True
            return True

    def close(self) -> None:
        """Close the port and all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.lose_all()


@contextlib.contextmanager
def proxied(target: int, delay: float = 0.0) -> Iterator[Proxy]:
    """Run a :class:`Proxy` in the block."""
    proxy = Proxy(target, delay)
    try:
        yield proxy
    finally:
        proxy.close()


def through(url: str, port: int) -> str:
    """Return ``url`` on another loopback port, without a login."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
