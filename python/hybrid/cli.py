"""What we add to the ``celery`` command, and ``python -m hybrid`` runs of it.

Celery loads this module as one of its plug-ins whenever its command line runs. That is after
the choices for ``-P`` have been made, and too late to patch.
"""

from __future__ import annotations

from typing import Any

import click
from celery import concurrency
from celery.bin import worker

from hybrid import _boot
from hybrid.errors import NotPatchedError
from hybrid.patches import celery as patches
from hybrid.patches import monkey


@click.command("hybrid", hidden=True)
def plugin() -> None:
    """Show whether this installation of celery-hybrid can start workers."""
    from importlib.util import find_spec

    import hybrid

    click.echo(f"celery-hybrid {hybrid.__version__}")
    for pool, hub in _boot.POOLS.items():
        there = "ready" if find_spec(hub) else f"pip install 'celery-hybrid[{hub}]'"
        click.echo(f"  -P {pool}: {there}")


def run() -> Any:
    """Run Celery's command line for ``python -m hybrid``, in a process that is patched."""
    patches.DETACH.replace(worker, _detach)
    from celery.bin.celery import main

    return main()


_celery_detach = worker.detach


def _detach(path: str, argv: list[str], **options: Any) -> Any:
    """Go to the background (``-D``) as ``python -m hybrid``, not as ``python -m celery``."""
    return _celery_detach(path, ["-m", "hybrid", *argv[2:]], **options)


class _WorkersPool(worker.WorkersPool):  # type: ignore[misc]
    """Takes our pools for ``-P`` where no start-up file has given Celery their names.

    They are not shown among the choices: the help of ``celery worker`` is Celery's own.

    Raises:
        NotPatchedError: There was no moment at which it was safe to patch, in a script for one.
    """

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        hub = _boot.wanted()
        if hub is not None:
            raise NotPatchedError(
                f"hybrid.{hub}: other threads ran when Celery was imported, and Celery's "
                f'command has not asked to patch; start the worker with "celery -A proj worker '
                f'-P hybrid.{hub}", or call hybrid.patch("{hub}") before any other import'
            )
        if value in _boot.POOLS and value not in self.choices:
            monkey.require(_boot.POOLS[value])
            return concurrency.get_implementation(f"{value}:TaskPool")
        return super().convert(value, param, ctx)


patches.POOL_OPTION.specialise(worker.WORKERS_POOL, _WorkersPool)
