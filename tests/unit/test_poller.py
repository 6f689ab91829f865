"""What Redis refuses to the poller of channels is told once, in one line."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError, ResponseError

from hybrid.transports.redis.poller import Poller

REFUSED = OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")


class Refused:
    """A channel whose bindings are looked after by a server that may refuse that.

    A worker looks after them at its first idle moment and then once in twenty minutes, so that no
    test meets a full server there for certain.
    """

    connection_errors = (ConnectionError,)

    def __init__(self, *outcomes: Exception | None) -> None:
        self._outcomes = iter(outcomes)

    def maybe_refresh_binding_expiry(self) -> Any:
        outcome = next(self._outcomes)
        if outcome is not None:
            raise outcome


def test_a_refusal_is_told_once_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    outcomes = (REFUSED, REFUSED, None, REFUSED, ResponseError("NOPERM"), ConnectionError())
    channel, poller = Refused(*outcomes), Poller()
    poller._channels.add(channel)
    with caplog.at_level(logging.INFO, "kombu.transport.redis"):
        for _ in outcomes:
            poller.maybe_refresh_binding_expiry()
    lines = [record.getMessage() for record in caplog.records if record.exc_info is None]
    assert len(lines) == len(caplog.records) == 3
    assert "bindings looked after (command not allowed" in lines[0]
    assert lines[1] == lines[0]
    assert "NOPERM" in lines[2]
