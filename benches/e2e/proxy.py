"""A TCP proxy that adds a fixed delay to every round trip, as a network between hosts does.

``python -m benches.e2e.proxy MILLISECONDS LISTEN:TARGET …``, ports of the loopback interface.

Half of the delay is added each way. Order is kept and throughput is not limited: what has arrived
waits until it is due, however much that is, up to a bound where reading stops as a full network
would make it. One thread, one epoll, one queue: as all delays are equal, what arrives first is due
first, over all connections. Opening a connection is not delayed, only what is sent on it.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import sys
from collections import deque
from time import monotonic

_READ_BYTES = 1 << 18
_MOST_BYTES = 1 << 25
"""What one direction of one connection may hold before reading from it stops."""


class _Direction:
    """Bytes from ``source`` to ``sink``."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.held = 0
        """Bytes read and not yet sent."""
        self.unsent = bytearray()
        """Those of them that are due."""
        self.is_read = False
        """Whether the source has said that nothing follows."""
        self.is_due = False
        """Whether that is due, too."""
        self.is_over = False
        self.events = select.EPOLLIN
        self.back: _Direction


class _Proxy:
    def __init__(self, delay: float) -> None:
        self.delay = delay / 2
        self.epoll = select.epoll()
        self.listeners: dict[int, tuple[socket.socket, int]] = {}
        self.by_source: dict[int, _Direction] = {}
        self.under_way: deque[tuple[float, _Direction, bytes]] = deque()

    def listen(self, port: int, target: int) -> None:
        listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        listener.setblocking(False)
        self.listeners[listener.fileno()] = listener, target
        self.epoll.register(listener, select.EPOLLIN)

    def run(self) -> None:
        under_way = self.under_way
        while True:
            self._wait()
            for descriptor, events in self.epoll.poll(0):
                if descriptor in self.listeners:
                    self._accept(*self.listeners[descriptor])
                elif direction := self.by_source.get(descriptor):
                    self._serve(direction, events)
            now = monotonic()
            while under_way and under_way[0][0] <= now:
                _, direction, data = under_way.popleft()
                self._deliver(direction, data)

    def _wait(self) -> None:
        if not self.under_way:
            select.select([self.epoll], [], [])
        elif (left := self.under_way[0][0] - monotonic()) > 0:
            # epoll itself rounds up to milliseconds, select does not.
            select.select([self.epoll], [], [], left)

    def _accept(self, listener: socket.socket, target: int) -> None:
        near, _ = listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", target))
        except OSError:
            near.close()
            return
        there, back = _Direction(near, far), _Direction(far, near)
        there.back, back.back = back, there
        for direction in (there, back):
            direction.source.setblocking(False)
            direction.source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.by_source[direction.source.fileno()] = direction
            self.epoll.register(direction.source, select.EPOLLIN)

    def _serve(self, direction: _Direction, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                self._send(direction.back)
            if events & ~select.EPOLLOUT:
                self._read(direction)
        except OSError:
            self._close(direction)

    def _read(self, direction: _Direction) -> None:
        try:
            data = direction.source.recv(_READ_BYTES)
        except BlockingIOError:
            return
        direction.held += len(data)
        direction.is_read = not data
        self.under_way.append((monotonic() + self.delay, direction, data))
        self._update(direction.source)

    def _deliver(self, direction: _Direction, data: bytes) -> None:
        if direction.is_over:
            return
        if data:
            direction.unsent += data
        else:
            direction.is_due = True
        with contextlib.suppress(OSError):
            self._send(direction)
            return
        self._close(direction)

    def _send(self, direction: _Direction) -> None:
        unsent = direction.unsent
        while unsent:
            try:
                sent = direction.sink.send(unsent)
            except BlockingIOError:
                break
            del unsent[:sent]
            direction.held -= sent
        if not unsent and direction.is_due:
            direction.is_over = True
            if direction.back.is_over:
                self._close(direction)
                return
            direction.sink.shutdown(socket.SHUT_WR)
        self._update(direction.sink)
        self._update(direction.source)

    def _update(self, end: socket.socket) -> None:
        """Watch for what this end can be used for now."""
        direction = self.by_source[end.fileno()]
        events = 0
        if not direction.is_read and direction.held < _MOST_BYTES:
            events |= select.EPOLLIN
        if direction.back.unsent:
            events |= select.EPOLLOUT
        if events != direction.events:
            self.epoll.modify(end, events)
            direction.events = events

    def _close(self, direction: _Direction) -> None:
        for one in (direction, direction.back):
            one.is_over = True
            if one.source.fileno() in self.by_source:
                del self.by_source[one.source.fileno()]
                one.source.close()


def main(arguments: list[str]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    milliseconds, *pairs = arguments
    proxy = _Proxy(float(milliseconds) / 1000)
    for pair in pairs:
        port, _, target = pair.partition(":")
        proxy.listen(int(port), int(target))
    print("ready", flush=True)
    proxy.run()


if __name__ == "__main__":
    main(sys.argv[1:])
