"""What is replaced of asyncio, and of loops that stand in for its own."""

from __future__ import annotations

import sys

from hybrid.patches import Patch

_WHY = "what asyncio keeps for a native thread while a loop runs is kept for each greenlet"
RUNNING_LOOP = Patch("asyncio.events._set_running_loop", _WHY, since="0.1")
# The name by which other loops look it up.
RUNNING_LOOP_NAME = Patch("asyncio._set_running_loop", _WHY, since="0.1")
SELECTOR = Patch(
    "selectors.BaseSelector().__class__",
    "while a loop waits, other greenlets are not in it",
    since="0.1",
)
SWITCHES = Patch(
    "greenlet.settrace",
    "while a coroutine waits in blocking code, other greenlets are not in its loop",
    since="0.1",
)
PIDFD = Patch(
    "asyncio.unix_events.can_use_pidfd",
    "gevent takes the status of children; asyncio waits for it through os.waitpid, and not itself",
    since="0.1",
)
_WHY_LOCAL = (
    "the loop that is set for a thread is that of a greenlet, where asyncio was imported before "
    "the standard library was patched"
)
POLICY_LOCALS = Patch(
    f"asyncio.events.{'_' * (sys.version_info >= (3, 14))}BaseDefaultEventLoopPolicy._Local",
    _WHY_LOCAL,
    since="0.1",
)
# Of the policy that there is by then.
POLICY_LOCAL = Patch("asyncio.AbstractEventLoopPolicy()._local", _WHY_LOCAL, since="0.1")
UVLOOP = Patch(
    "uvloop.Loop.run_forever",
    "one line says that it stops the other tasks, where it was imported before the pool",
    since="0.1",
)
