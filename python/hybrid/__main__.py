"""``python -m hybrid worker …``: the start of a worker that needs no start-up file.

It patches before anything imports Celery, and so does this module.
"""

from __future__ import annotations

import os
import sys

if not __package__:
    # Celery restarts a worker by running this file as a script. Python then looks for modules
    # beside it first, where our `gevent` and `eventlet` are.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from hybrid import _boot
from hybrid.errors import NotPatchedError

USAGE = """\
Usage: python -m hybrid worker -A proj -P hybrid.gevent [any option of `celery worker`]

The same as `celery -A proj worker -P hybrid.gevent`, without the start-up file that
`pip install celery-hybrid` brings: for installations that lack it, such as those by
`pip install --target`.

Pools: hybrid.gevent, hybrid.eventlet
"""


def main() -> None:
    """Patch for the pool that the command line asks for, then run Celery.

    Raises:
        NotPatchedError: The command line names none of our pools.
    """
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    hub = _boot.requested_hub(argv)
    if hub is None:
        pool = _boot.requested_pool(argv)
        what = f"the pool {pool!r} is none of ours" if pool else "no pool is named"
        raise NotPatchedError(
            f"python -m hybrid: {what}; type "
            '"python -m hybrid worker -A proj -P hybrid.gevent -c 1000"'
        )
    _boot.patch(hub)
    # Celery wants `-A` before its command; users of `python -m hybrid worker` may not.
    app, rest = _take_app(argv)
    sys.argv[1:] = [*app, *rest]

    from hybrid import cli

    sys.exit(cli.run())


def _take_app(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split ``argv`` into the option that names the app and everything else."""
    for index, arg in enumerate(argv):
        if arg in ("-A", "--app"):
            return argv[index : index + 2], argv[:index] + argv[index + 2 :]
        if arg.startswith(("-A", "--app=")):
            return [arg], argv[:index] + argv[index + 1 :]
    return [], argv


if __name__ == "__main__":
    main()
