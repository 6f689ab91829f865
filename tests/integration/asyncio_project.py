"""A project whose tasks use asyncio, in the ways that there are, and Django's ORM.

A task returns its number, if all was as in a thread of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from typing import Any, Callable

import anyio
import django
from asgiref.sync import async_to_sync, sync_to_async
from celery import Celery, signals
from django.conf import settings
from django.db import connection, models
from harness.journal import Journal
from harness.worker import SETTINGS_VARIABLE

app = Celery("asyncio_project")
app.conf.update(json.loads(os.environ[SETTINGS_VARIABLE]))
journal = Journal(app.conf.result_backend)
for name in os.environ.get("HYBRID_TEST_IMPORT", "").split():
    importlib.import_module(name)

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("HYBRID_TEST_DATABASE", ":memory:"),
            "OPTIONS": {"timeout": 60},
        }
    },
    USE_TZ=True,
)
django.setup()


class Row(models.Model):
    number = models.IntegerField()

    class Meta:
        app_label = "asyncio_project"


@signals.worker_init.connect
def _create_tables(**_: Any) -> None:
    with connection.schema_editor() as editor:
        editor.create_model(Row)
    connection.close()


async def wait_and_return(number: int) -> int:
    """Wait by a timer, a future, a task and a child task."""
    loop = asyncio.get_running_loop()
    me = asyncio.current_task()
    future = loop.create_future()
    loop.call_later(0.02, future.set_result, number)
    assert await future == number
    await asyncio.gather(*(asyncio.sleep(0.01) for _ in range(3)))
    assert asyncio.current_task() is me is not None
    assert asyncio.get_running_loop() is loop
    return number


async def count() -> Any:
    for number in range(4):
        await asyncio.sleep(0.005)
        yield number


async def generate(number: int) -> int:
    """Leave a generator half done: its loop closes it, and no other one."""
    assert [n async for n in count()] == [0, 1, 2, 3]
    left = count()
    await left.__anext__()
    await asyncio.sleep(0.01)
    assert left in asyncio.get_running_loop()._asyncgens  # type: ignore[attr-defined]
    return number


def block(number: int) -> int:
    """Wait in code that the hub has made cooperative: a lock."""
    lock = threading.Lock()
    lock.acquire()
    threading.Timer(0.02, lock.release).start()
    lock.acquire()
    return number


async def block_inside(number: int) -> int:
    me = asyncio.current_task()
    for _ in range(3):
        assert block(number) == number
        assert asyncio.current_task() is me is not None
        await asyncio.sleep(0.005)
    return number


async def block_elsewhere(number: int) -> int:
    assert await sync_to_async(block)(number) == number
    assert await sync_to_async(block, thread_sensitive=False)(number) == number
    return await asyncio.to_thread(block, number)


async def start_child(number: int) -> int:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-Sc", f"print({number}); raise SystemExit(3)", stdout=subprocess.PIPE
    )
    out, _ = await child.communicate()
    assert child.returncode == 3
    return int(out)


async def in_groups(number: int) -> int:
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(anyio.sleep, 0.01)
    assert await anyio.to_thread.run_sync(block, number) == number
    return number


async def eagerly(number: int) -> int:
    async def inner() -> int:
        me = asyncio.current_task()
        block(number)
        assert asyncio.current_task() is me
        return await wait_and_return(number)

    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    assert await asyncio.gather(*(asyncio.create_task(inner()) for _ in range(3))) == [number] * 3
    return number


def run_until_complete(number: int) -> int:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(wait_and_return(number))
    finally:
        loop.close()


def get_event_loop(number: int) -> int:
    """Use the loop of this thread, and make it where there is none: what is often copied."""
    try:
        loop = asyncio.get_event_loop()
    except RuntimeError:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop.run_until_complete(wait_and_return(number))


def nested(number: int) -> int:
    """Sync in async in sync in async."""
    return async_to_sync(sync_to_async(async_to_sync(wait_and_return)))(number)


def no_loop(number: int) -> int:
    """Be in no loop, while others are in theirs."""
    for _ in range(20):
        assert asyncio._get_running_loop() is None
        assert sys.get_asyncgen_hooks() == (None, None)
        time.sleep(0.01)
    return number


def orm(number: int) -> int:
    Row.objects.create(number=number)
    time.sleep(0.02)
    assert Row.objects.filter(number=number).count() == 1
    return Row.objects.get(number=number).number


WAYS: dict[str, Callable[[int], Any]] = {
    "anyio": lambda number: anyio.run(in_groups, number),
    "async_to_sync": async_to_sync(wait_and_return),
    "block_elsewhere": lambda number: asyncio.run(block_elsewhere(number)),
    "block_inside": lambda number: asyncio.run(block_inside(number)),
    "generate": lambda number: asyncio.run(generate(number)),
    "get_event_loop": get_event_loop,
    "nested": nested,
    "no_loop": no_loop,
    "orm": orm,
    "run": lambda number: asyncio.run(wait_and_return(number)),
    "run_until_complete": run_until_complete,
    "subprocess": lambda number: asyncio.run(start_child(number)),
    "sync_to_async": async_to_sync(block_elsewhere),
}
if sys.version_info >= (3, 12):
    WAYS["eager"] = lambda number: asyncio.run(eagerly(number))


@app.task(name="go")
def go(way: str, number: int) -> Any:
    return WAYS[way](number)


@app.task(name="talk")
def talk(port: int, number: int) -> int:
    async def talk_to_server() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for turn in range(3):
            line = b"%d %d\n" % (number, turn)
            writer.write(line)
            await writer.drain()
            assert await reader.readline() == line
        writer.close()
        await writer.wait_closed()
        return number

    return asyncio.run(talk_to_server())


async def wait_in_a_lock(tag: str) -> None:
    journal.write(tag, "blocked")
    while not journal.count(f"{tag}.told"):
        time.sleep(0.05)
    await asyncio.sleep(0)


@app.task(name="block_by_run")
def block_by_run(tag: str) -> None:
    asyncio.run(wait_in_a_lock(tag))


@app.task(name="block_by_bridge")
def block_by_bridge(tag: str) -> None:
    async_to_sync(wait_in_a_lock)(tag)


@app.task(name="wait_for_ever")
def wait_for_ever(tag: str, does_block: bool) -> None:
    async def wait() -> None:
        journal.write(tag, "waiting")
        try:
            if does_block:
                threading.Event().wait()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            assert asyncio.current_task() is not None
            journal.write(tag, "cleaned up")

    asyncio.run(wait())


@app.task(name="uv")
def uv(number: int) -> int:
    import uvloop

    loop = uvloop.new_event_loop()
    try:
        return int(loop.run_until_complete(asyncio.sleep(0.05, number)))
    finally:
        loop.close()
