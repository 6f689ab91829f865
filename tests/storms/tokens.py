"""Credentials that are renewed every second, as those of a cloud's identity service are."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Callable

from load import CREDENTIALS_VARIABLE
from redis.credentials import StreamingCredentialProvider

USER = "storm"
MOST = 200
"""Tokens that the server knows."""
EVERY = 1.0
"""Seconds from one to the next."""


def token(number: int) -> str:
    """Return what a user logs in with for the ``number``-th second."""
    return f"token-{number}"


class _Token:
    """One token, with the methods that redis-py asks of them."""

    def __init__(self, number: int) -> None:
        self._value = token(number)

    def try_get(self, key: str) -> str:
        return USER

    def get_value(self) -> str:
        return self._value


_number = 0
_listeners: list[Callable[[Any], None]] = []


class Provider(StreamingCredentialProvider):
    """Logs in with the token of now, and tells redis-py of each new one."""

    def get_credentials(self) -> tuple[str, str]:
        return USER, token(_number)

    def on_next(self, callback: Callable[[Any], None]) -> None:
        _listeners.append(callback)

    def on_error(self, callback: Callable[[Exception], None]) -> None:
        pass

    def is_streaming(self) -> bool:
        return True


def _renew() -> None:
    global _number
    while _number < MOST - 1:
        time.sleep(EVERY)
        _number += 1
        for listener in list(_listeners):
            listener(_Token(_number))


if CREDENTIALS_VARIABLE in os.environ:
    # In a worker on a green pool this is a greenlet, as it is where a cloud's library does it.
    threading.Thread(target=_renew, name="tokens", daemon=True).start()
