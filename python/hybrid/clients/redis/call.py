"""One request of a Redis connection, from its caller to its replies."""

from __future__ import annotations

import enum
import logging
from typing import Any, Callable

from hybrid.hubs.parking import Place

# Not ours: whoever has set kombu's logging up reads there what became of their Redis.
logger = logging.getLogger("kombu.transport.redis")

#: One command, as for ``Redis.execute_command``.
Command = tuple[tuple[Any, ...], dict[str, Any]]

#: How often a call is sent, at most, because connections are lost.
SENDS = 6


class State(enum.Enum):
    """What has become of a call."""

    #: Nothing of it has been given to a socket.
    WAITING = "waiting"
    #: The server may have it.
    SENT = "sent"
    #: All its replies have come.
    ANSWERED = "answered"
    #: Its connection was lost, and it is not sent again.
    LOST = "lost"


class Call:
    """Commands that stand together in a line of calls, and what has come of them.

    A call ends once: answered, or lost for its connection's reason. Its caller may be gone by then,
    ended while it waited: such a call is *abandoned*. If it has been sent it stays in the line: its
    replies still come, and nobody else may take them for theirs.

    Who may switch: only its caller, at its place. Whoever resolves a call does not.

    Args:
        commands: The commands.
        data: The commands as bytes.
        is_transaction: Whether ``MULTI`` and ``EXEC`` are around them.
        survives_loss: Whether it makes no difference if they are executed twice, so that they are
            sent again when their connection is lost.
        place: Where somebody waits for it, and is told its replies.
        wants_replies: Whether that is so; otherwise it is told ``None`` as soon as it is sent.
        on_end: Called when the call has ended, without switching. Where it is given, or where
            nobody waits, a call that is answered with an error or lost is theirs to report.
    """

    __slots__ = (
        "commands",
        "data",
        "end",
        "error",
        "expected",
        "is_transaction",
        "on_end",
        "place",
        "replies",
        "sends",
        "start",
        "state",
        "survives_loss",
        "wants_replies",
    )

    def __init__(
        self,
        commands: list[Command],
        data: bytes,
        is_transaction: bool = False,
        survives_loss: bool = False,
        on_end: Callable[[Call], None] | None = None,
        place: Place | None = None,
        wants_replies: bool = True,
    ) -> None:
        self.commands = commands
        self.data = data
        self.is_transaction = is_transaction
        self.survives_loss = survives_loss
        self.on_end = on_end
        self.state = State.WAITING
        self.place = place
        self.wants_replies = wants_replies
        #: Where its bytes are in the stream of its connection.
        self.start = self.end = 0
        self.sends = 0
        # MULTI and one QUEUED for each command come before what EXEC returns.
        self.expected = len(commands) + 2 if is_transaction else len(commands)
        self.replies: list[Any] = []
        self.error: BaseException | None = None

    @property
    def is_abandoned(self) -> bool:
        """Whether its caller was ended (a limit, a kill, a timeout) while it waited."""
        return self.place is not None and self.place.is_abandoned

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for it, or for its end."""
        return (self.place is not None and not self.is_abandoned) or self.on_end is not None

    def may_be_sent(self) -> bool:
        """Tell whether this call, which has no connection, may be sent on the next one."""
        if self.sends >= SENDS:
            return False
        if self.survives_loss:
            return True
        return self.state is State.WAITING and not self.is_abandoned

    def requeue(self) -> None:
        """Begin anew, for another connection."""
        self.state = State.WAITING
        self.replies = []

    def tell_sent(self) -> None:
        """Let whoever waits for that, and not for replies, know that all of it has been sent."""
        place = self.place
        if place is not None:
            self.place = None  # from here on nobody waits
            place.tell()

    def fail(self, exc: BaseException) -> None:
        """End without replies."""
        self.error = exc
        self.resolve(State.LOST)

    def resolve(self, state: State) -> None:
        """End as ``state`` says, with all replies or with the error."""
        self.state = state
        place = self.place
        if self.on_end is not None:
            self.on_end(self)
            return
        if place is not None and not (self.survives_loss and place.is_abandoned):
            if self.error is None:
                place.tell(self.replies)
            else:
                place.fail(self.error)
            return
        # Nobody waits for it, and what went wrong is logged.
        replies = self.replies if self.error is None else [self.error] * len(self.commands)
        for (args, _), reply in zip(self.commands, replies):
            if isinstance(reply, BaseException):
                kind = type(reply).__name__  # redis-py's own texts for these name no class
                logger.error("Redis did not execute %s: %s: %s", args[0], kind, reply)
