"""Remote control that outlives its connection, and what the broker refuses it.

Celery's mailbox has a connection and a greenlet of its own. When that connection alone is lost, or
the broker refuses to declare the mailbox for a while, the greenlet ends, and nobody answers until
the consumer has lost its connection, too.

Who may switch: the greenlet of the mailbox, while it waits for commands, and before it connects
again.
"""

from __future__ import annotations

from typing import Any

from celery.utils.log import get_logger
from celery.worker import pidbox
from celery.worker.consumer import control

logger = get_logger("celery.worker.pidbox")

#: Seconds before the next connection.
RECONNECT_WAIT = 1.0
#: Seconds for which its end is waited for; its own connection may be to a broker that is silent.
END_WAIT = 3.0


class Mailbox(pidbox.gPidbox):  # type: ignore[misc]
    """Celery's mailbox, which connects again."""

    #: Stands for one start, until the next stop.
    _run: object = None
    #: What has kept it from answering, since it last could.
    _failure: str | None = None
    _node_shutdown: Any
    _node_stopped: Any

    def start(self, c: Any) -> None:
        """Answer commands from now on, in a greenlet of its own."""
        self._run = object()
        super().start(c)

    def on_stop(self) -> None:
        """Have that greenlet end, and wait for it, but not for ever."""
        self._run = None
        stopped, self._node_stopped = self._node_stopped, None
        if stopped is not None:
            self._node_shutdown.set()
            stopped.wait(END_WAIT)
            self._node_shutdown = None

    def loop(self, c: Any) -> None:
        """Answer commands until it is stopped."""
        run = self._run
        while run is not None and self._run is run and c.connection:
            try:
                super().loop(c)
                return
            except Exception as exc:
                if self._run is not run or not c.connection:
                    return
                self._tell(c, exc)
                c.pool.hub.sleep(RECONNECT_WAIT)

    def _do_reset(self, c: Any, connection: Any) -> None:
        super()._do_reset(c, connection)
        self._failure = None

    def _tell(self, c: Any, exc: Exception) -> None:
        if isinstance(exc, c.connection_errors):
            logger.warning("pidbox: Connection lost (%r). Trying to connect again...", exc)
        elif self._failure != repr(exc):
            self._failure = repr(exc)
            logger.error(
                "pidbox: No command can be received (%r). Remote control tries again until that "
                "has been set right",
                exc,
                exc_info=not isinstance(exc, c.channel_errors),
            )


class Control(control.Control):  # type: ignore[misc]
    """Celery's bootstep with that mailbox."""

    # Celery finds steps by name: this one takes the place of its own.
    name = control.Control.name

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self.box = Mailbox(c)
        self.start = self.box.start
        self.stop = self.box.stop
        self.shutdown = self.box.shutdown
