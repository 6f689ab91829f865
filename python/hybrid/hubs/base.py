"""What the worker needs of an event loop, and all that it may use of one.

A *hub* is the greenlet that polls for I/O and runs callbacks; every other greenlet gets
its turns from it. Two rules follow for whoever calls this contract:

* A callback runs in the hub. It must not block, and it may switch only into greenlets
  that give control back by parking, blocking or ending.
* Everything here belongs to the thread that opened the hub, except
  :meth:`Hub.call_soon_threadsafe`, :meth:`Hub.in_thread`, :meth:`Hub.can_park` and
  :attr:`Hub.name`.
"""

from __future__ import annotations

import abc
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Protocol

# The package is known here only; whoever needs these takes them from here.
from greenlet import GreenletExit as GreenletExit
from greenlet import getcurrent as getcurrent

if TYPE_CHECKING:
    from hybrid.hubs.parking import Place


class Greenlet(Protocol):
    """The part of :class:`greenlet.greenlet` that the worker touches."""

    dead: bool

    def switch(self, *args: Any) -> Any:
        """Run this greenlet now, until it gives control back."""

    def throw(self, *args: Any) -> Any:
        """Raise in this greenlet now, at the place where it waits."""


class Alarm(Protocol):
    """One armed timer of a hub."""

    def cancel(self) -> None:
        """Disarm; harmless after it has fired."""


class Hub(abc.ABC):
    """One event loop: callbacks, greenlets, one kind of timer, and a way to wait."""

    #: The word that selects this hub: ``-P hybrid.<name>``.
    name: ClassVar[str]
    #: Returns the greenlet that is running.
    current: Callable[[], Greenlet] = staticmethod(getcurrent)
    #: Whether the library takes the status of ended children before whoever waits for them.
    reaps_children: ClassVar[bool] = False

    def __init__(self) -> None:
        #: Whether it has what it needs: before :meth:`open`, nothing but
        #: :meth:`call_soon_threadsafe` and what tells something may be used.
        self.is_open = False
        #: What was to be called before.
        self._early: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        #: Methods of the class that calls do not pass through.
        self._shortcuts: tuple[str, ...] = ()
        #: Places whose greenlets go on in the next turn.
        self._told: list[Place] = []

    def open(self) -> None:
        """Become the hub of the calling thread. Calling it again does nothing.

        Until then it has opened no file, and started neither threads nor greenlets.
        """
        if self.is_open:
            return
        self._open()
        self.is_open = True
        while self._early:
            callback, args = self._early.popleft()
            self.call_soon(callback, *args)

    @abc.abstractmethod
    def _open(self) -> None:
        """Open what the hub needs."""

    @abc.abstractmethod
    def in_thread(self) -> bool:
        """Tell whether the calling native thread is the hub's own. Thread-safe."""

    @abc.abstractmethod
    def can_park(self) -> bool:
        """Tell whether the caller is a greenlet of this hub, and not the hub itself.

        Thread-safe.
        """

    @abc.abstractmethod
    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call ``callback(*args)`` in the hub, in its next turn, in order of submission."""

    @abc.abstractmethod
    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        """Like :meth:`call_soon`, from any thread or signal handler; wakes a sleeping hub.

        Before the hub is open, the call waits for that.
        """

    @abc.abstractmethod
    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Call ``callback()`` in the hub after ``seconds``, counted from now."""

    @abc.abstractmethod
    def spawn(self, run: Callable[..., object], *args: Any) -> Greenlet:
        """Start ``run(*args)`` in a greenlet of its own, in the hub's next turn.

        The greenlet is one of the library's own kind (:class:`gevent.Greenlet`, eventlet's
        ``GreenThread``), so that everything users expect of one works inside it. A
        :exc:`SystemExit` that leaves ``run`` ends the process, any other exception is
        printed by the library.
        """

    @abc.abstractmethod
    def park(self) -> Any:
        """Give control back until somebody switches into this greenlet.

        Returns:
            What that switch passed: ``None`` for a bare one. Anybody may switch into a
            greenlet, so check what comes back and park again when it is not yours.

        Never call this in the hub itself.
        """

    @abc.abstractmethod
    def sleep(self, seconds: float) -> None:
        """Let the other greenlets run for ``seconds``."""

    @abc.abstractmethod
    def after_fork(self) -> None:
        """Give the calling greenlet, in a child of this process, a loop in which nothing waits.

        No other greenlet of the parent's gets a turn from it, and nothing happens through this hub
        any more: it is a :class:`~hybrid.hubs.forking.ForkedHub` from then on.
        """

    # -- for hubs

    def _shortcut(self, **methods: Callable[..., Any]) -> None:
        """Have callers reach what ``methods`` would only pass their arguments on to."""
        vars(self).update(methods)
        self._shortcuts = tuple(methods)

    def _become(self, cls: type[Any]) -> None:
        """Be a hub of another class from now on."""
        for name in self._shortcuts:
            del vars(self)[name]
        self._shortcuts = ()
        self.__class__ = cls

    # -- resuming others; the hub itself does it

    def resume(self, greenlet: Greenlet, *args: Any) -> None:
        """Switch into ``greenlet``, which has parked. For callbacks of the hub.

        On eventlet, what leaves a greenlet for good reaches whoever has switched into it. Here it
        is raised in a callback of its own, where the library reports it, and a :exc:`SystemExit`
        ends the process; whoever resumes goes on with the others.
        """
        try:
            greenlet.switch(*args)
        except BaseException as exc:
            self.call_soon(_raise, exc)

    def interrupt(self, greenlet: Greenlet, exc: BaseException | type[BaseException]) -> None:
        """Raise ``exc`` in ``greenlet`` where it waits. Otherwise as :meth:`resume`."""
        try:
            greenlet.throw(exc)
        except BaseException as left:
            self.call_soon(_raise, left)

    def resume_soon(self, place: Place) -> None:
        """Resume who waits at ``place`` in the next turn, behind those who were told before."""
        if not self._told:
            self.call_soon(self._resume_told)
        self._told.append(place)

    def _resume_told(self) -> None:
        told, self._told = self._told, []
        for place in told:
            if place.greenlet is not None:  # it has not been ended meanwhile
                self.resume(place.greenlet)


def _raise(exc: BaseException) -> None:
    raise exc
