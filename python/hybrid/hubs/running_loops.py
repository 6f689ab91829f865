"""asyncio in greenlets: what it keeps for a native thread is kept for each greenlet.

While a loop runs, asyncio and Python note that for the native thread: the running loop, since 3.14
the task that it is in, and the hooks of asynchronous generators. All greenlets of a hub share one
thread, so all of them would seem to be in that loop. Control leaves a greenlet in which a loop runs
in two ways, and each puts these aside until it comes back:

* The loop waits for I/O. Its selector, which is given a subclass of its own class, does so around
  each wait.
* A step of a coroutine, or a callback, waits in code that the hub made cooperative. Whatever that
  is, it is a switch of greenlets, and greenlet calls a function of ours for these. It is set while
  steps run, and stays while one is away; where neither is the case, the next switch ends it.

So greenlets without a loop are not slowed down, but while a step of somebody's is away.

Who may switch: the selector, in its wait. :meth:`RunningLoops._on_switch` runs in the middle of a
switch, of whatever greenlet, and :meth:`RunningLoops._look` in the hub: neither may.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from asyncio import events, unix_events
from functools import partial
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE
from types import FrameType
from typing import Any, Callable, NamedTuple

from greenlet import gettrace, settrace

from hybrid.hubs.base import Alarm, Greenlet, Hub
from hybrid.patches import asyncio as patches

#: Where a greenlet keeps what was put aside, in its own dictionary.
_ASIDE = "_asyncio_aside"

# In C, where asyncio has them so: C code of asyncio looks nowhere else.
_get_running_loop = events._get_running_loop
_set_running_loop = events._set_running_loop
# Since 3.14 the current task is the thread's, too. Before, it is noted for its loop; 3.13 takes the
# same call, 3.12 takes it badly.
_swap_task: Callable[[Any, Any], Any] | None = None
if sys.version_info >= (3, 13):
    _swap_task = asyncio.tasks._swap_current_task


class Place(NamedTuple):
    """Where a coroutine waits in blocking code."""

    function: str
    file: str
    line: int


#: A loop, the hooks of asynchronous generators, and the current task.
_Aside = tuple[Any, Any, Any]


def _put_aside(loop: Any) -> _Aside:
    """Let the thread be in no loop, and return what it was in."""
    task = None if _swap_task is None else _swap_task(loop, None)
    hooks = sys.get_asyncgen_hooks()
    _set_running_loop(None)
    sys.set_asyncgen_hooks(None, None)
    return loop, hooks, task


def _take_back(aside: _Aside) -> None:
    loop, hooks, task = aside
    _set_running_loop(loop)
    sys.set_asyncgen_hooks(*hooks)
    if _swap_task is not None:
        _swap_task(loop, task)


class RunningLoops:
    """Keeps the loops that run in greenlets of ``hub`` apart.

    Args:
        hub: Whose greenlets these are.
        on_blocked: Called in the hub with a greenlet whose coroutine has been waiting in blocking
            code for ``loop.slow_callback_duration``, and with the place. It must not block.
        on_foreign: Called with a loop that does not wait by a selector, but in code of its own, as
            it begins to run.
    """

    def __init__(
        self,
        hub: Hub,
        on_blocked: Callable[[Greenlet, Place], object],
        on_foreign: Callable[[Any], object],
    ) -> None:
        self._hub = hub
        self._on_blocked = on_blocked
        self._on_foreign = on_foreign
        #: Greenlets that are away in a step.
        self._away = 0
        #: For loops with a step that has been away, what looks whether it still is.
        self._alarms: dict[Any, Alarm] = {}
        self._tracer = self._on_switch
        #: What else is called for switches, and whether it is being called.
        self._next_tracer: Any = None
        self._is_calling = False

    def keep_apart(self) -> None:
        """Do so for all loops that begin to run from now on."""
        patches.RUNNING_LOOP.replace(events, self._begin)
        patches.RUNNING_LOOP_NAME.replace(asyncio, self._begin)
        patches.SWITCHES.apply_for_good()
        self._set_loops_apart()
        if self._hub.reaps_children and hasattr(unix_events, "can_use_pidfd"):
            patches.PIDFD.replace(unix_events, bool)  # which is False
        uvloop = sys.modules.get("uvloop")
        if uvloop is not None:  # it has got hold of the function above
            base = uvloop.Loop.__mro__[1]

            def begin_and_run(loop: Any) -> None:
                self._enter(loop)
                base.run_forever(loop)

            patches.UVLOOP.replace(uvloop.Loop, begin_and_run)

    def _set_loops_apart(self) -> None:
        """See to it that the loop that is set for a thread is that of a greenlet."""
        policies = getattr(events, patches.POLICY_LOCALS.what.split(".")[2], None)
        if policies is not None and not issubclass(policies._Local, threading.local):
            fields = {"_loop": None, "_set_called": False}
            green = type("_Local", (threading.local,), fields)
            patches.POLICY_LOCALS.replace(policies, green)
            policy = vars(events)["_event_loop_policy"]
            if isinstance(policy, policies):
                local = green()
                vars(local).update(vars(policy._local))
                patches.POLICY_LOCAL.replace(policy, local)

    # -- in the greenlet of a loop

    def _begin(self, loop: Any) -> None:
        """Do what asyncio does for ``loop`` as it begins to run, or with ``None``, as it ends."""
        _set_running_loop(loop)
        if loop is not None:
            self._enter(loop)

    def _enter(self, loop: Any) -> None:
        if not self._hub.can_park():
            return  # another native thread, or the hub: no greenlets run while it waits
        selector: Any = getattr(loop, "_selector", None)
        # Not asked for its class: eventlet has a copy of the module that defines it.
        if not hasattr(selector, "select"):
            self._watch()
            self._on_foreign(loop)
        elif not isinstance(selector, _Apart):
            try:
                patches.SELECTOR.specialise(selector, _make_class(type(selector)))
            except TypeError:  # its class has slots, or is written in C
                self._watch()  # its waits are switches
            else:
                selector._hybrid_loops = self

    def leave(self, loop: Any) -> _Aside | None:
        """Be in ``loop``, which is going to wait, no longer; ``None`` in another native thread."""
        if not self._hub.in_thread():
            return None
        if self._alarms:
            self._end_alarm(loop)
        if not self._away:
            self._unwatch()
        return _put_aside(loop)

    def come_back(self, aside: _Aside) -> None:
        """Be in its loop again."""
        _take_back(aside)
        self._watch()

    # -- switches

    def _watch(self) -> None:
        if gettrace() is not self._tracer:
            self._next_tracer = settrace(self._tracer)

    def _unwatch(self) -> None:
        if gettrace() is self._tracer:
            settrace(self._next_tracer)

    def _on_switch(self, event: str, greenlets: tuple[Any, Any]) -> None:
        if self._is_calling:  # by one that has been set behind us, and calls us
            return
        if event in ("switch", "throw"):
            origin, target = greenlets
            loop = _get_running_loop()
            if loop is not None:
                origin.__dict__[_ASIDE] = _put_aside(loop)
                self._away += 1
                if loop not in self._alarms:
                    self._set_alarm(loop, origin)
            if self._away:
                aside = target.__dict__.pop(_ASIDE, None)
                if aside is not None:
                    self._away -= 1
                    _take_back(aside)
            else:
                self._unwatch()
        if self._next_tracer is not None:
            self._is_calling = True
            try:
                self._next_tracer(event, greenlets)
            finally:
                self._is_calling = False

    def _set_alarm(self, loop: Any, greenlet: Greenlet) -> None:
        seconds = getattr(loop, "slow_callback_duration", 0.1)
        look = partial(self._look, loop, greenlet)
        self._alarms[loop] = self._hub.call_later(seconds, look)

    def _end_alarm(self, loop: Any) -> None:
        alarm = self._alarms.pop(loop, None)
        if alarm is not None:
            alarm.cancel()

    # -- in the hub

    def _look(self, loop: Any, greenlet: Any) -> None:
        """Tell of a step of ``loop`` if it is still away."""
        self._alarms.pop(loop, None)
        aside = greenlet.__dict__.get(_ASIDE)
        if aside is None or aside[0] is not loop:
            return
        place = _find_place(greenlet.gr_frame)
        if place is None:
            self._set_alarm(loop, greenlet)
        else:
            self._on_blocked(greenlet, place)


class _Apart:
    """A selector that waits for a loop while no other greenlet is in that loop."""

    _hybrid_loops: RunningLoops

    def select(self, timeout: float | None = None) -> Any:
        loop = _get_running_loop()
        aside = None
        try:
            if loop is not None:
                aside = self._hybrid_loops.leave(loop)
            return super().select(timeout)  # type: ignore[misc]
        finally:
            if aside is not None:
                self._hybrid_loops.come_back(aside)


#: Subclasses of the classes of selectors.
_classes: dict[type, type] = {}


def _make_class(cls: type) -> type:
    made = _classes.get(cls)
    if made is None:
        made = type(cls.__name__, (_Apart, cls), {"__module__": cls.__module__})
        _classes[cls] = made
    return made


#: What waits until something else has begun to run, and the turn of a loop.
_EXCUSED = {
    ("threading", "start"),
    ("concurrent.futures.thread", "submit"),
    ("asyncio.base_events", "_run_once"),
}
_COROUTINE = CO_COROUTINE | CO_ITERABLE_COROUTINE | CO_ASYNC_GENERATOR


def _find_place(frame: FrameType | None) -> Place | None:
    """Return where the coroutine is that waits in ``frame``; ``None`` where nobody is to blame.

    That is where a thread is being given work, as by ``asyncio.to_thread``, and in asyncio itself.
    """
    found = None
    while frame is not None and frame.f_code is not events.Handle._run.__code__:
        found = frame
        module = frame.f_globals.get("__name__", "")
        if (module, frame.f_code.co_name) in _EXCUSED:
            return None
        if frame.f_code.co_flags & _COROUTINE:
            if module.partition(".")[0] == "asyncio":
                return None
            break
        frame = frame.f_back
    if found is None:
        return None
    return Place(found.f_code.co_name, found.f_code.co_filename, found.f_lineno)
