"""The user's project. Its first line of output tells whether sockets were patched before it."""

import socket
import sys

print(f"proj sees {socket.socket.__module__}", flush=True)

import json  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402

from celery import Celery  # noqa: E402

app = Celery("proj")
app.conf.update(json.loads(os.environ.get("PROJ_SETTINGS", "{}")))


@app.task(name="add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="sockets")
def sockets() -> str:
    return socket.socket.__module__


@app.task(name="modules")
def modules(prefix: str) -> list:
    """Tell what the worker has imported."""
    return sorted(name for name in sys.modules if name.startswith(prefix))


@app.task(name="block")
def block(seconds: float) -> None:
    """Keep the processor busy, and with it every greenlet of the worker."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass
