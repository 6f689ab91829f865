"""The command lines: ``python -m hybrid …`` and what ``celery`` shows of this package."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from hybrid import _boot, patching
from hybrid.errors import NotPatchedError

USAGE = """\
Usage: python -m hybrid worker -A proj -P hybrid.gevent [any option of `celery worker`]

The same as `celery -A proj worker -P hybrid.gevent`, without the start-up file that
`pip install celery-hybrid` brings: for installations that lack it, such as those by
`pip install --target`.

Pools: hybrid.gevent, hybrid.eventlet
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``python -m hybrid``: patch for the pool that is asked for, then run Celery.

    Raises:
        NotPatchedError: The command line names none of our pools.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    pool = _boot.requested_pool(argv)
    if pool not in _boot.POOLS:
        what = f"the pool {pool!r} is none of ours" if pool else "no pool is named"
        raise NotPatchedError(
            f"python -m hybrid: {what}; type "
            '"python -m hybrid worker -A proj -P hybrid.gevent -c 1000"'
        )
    _boot.patch(_boot.POOLS[pool])
    # Celery wants `-A` before its command; users of `python -m hybrid worker` may not.
    app, rest = _take_app(argv)
    sys.argv = ["celery", *app, *rest]
    from celery.bin.celery import main as celery_main

    sys.exit(celery_main())


def _take_app(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split ``argv`` into the option that names the app and everything else."""
    for index, arg in enumerate(argv):
        if arg in ("-A", "--app"):
            return argv[index : index + 2], argv[:index] + argv[index + 2 :]
        if arg.startswith(("-A", "--app=")):
            return [arg], argv[:index] + argv[index + 1 :]
    return [], argv


@click.command("hybrid", hidden=True)
def plugin() -> None:
    """Show whether this installation of celery-hybrid can start workers."""
    from importlib.util import find_spec

    import hybrid

    click.echo(f"celery-hybrid {hybrid.__version__}")
    for pool, hub in _boot.POOLS.items():
        there = "ready" if find_spec(hub) else f"pip install 'celery-hybrid[{hub}]'"
        click.echo(f"  -P {pool}: {there}")


def _let_click_take_our_pools() -> None:
    """Let ``-P`` take our names where the start-up file could not give them to Celery.

    Celery loads its plug-ins after the choices for ``-P`` have been made, and too late to
    patch. With the names known, the pool itself is reached, which says what to type; without
    them, the user would read that there is no such pool.
    """
    from celery import concurrency
    from celery.bin.worker import WORKERS_POOL

    if patching.is_patched("gevent") or patching.is_patched("eventlet"):
        return
    for name in _boot.POOLS:
        concurrency.ALIASES.setdefault(name, f"{name}:TaskPool")
    WORKERS_POOL.choices = tuple(WORKERS_POOL.choices) + tuple(
        name for name in _boot.POOLS if name not in WORKERS_POOL.choices
    )


_let_click_take_our_pools()
