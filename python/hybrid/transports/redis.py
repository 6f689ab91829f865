"""kombu's Redis transport with messages decoded in Rust."""

from __future__ import annotations

from types import FunctionType
from typing import Any, Callable

from kombu.transport import redis, virtual

from .message import Message, decode_envelope


def _rebound(function: Callable[..., Any], **names: Any) -> Any:
    """Return kombu's ``function`` with other values for some of its module's globals.

    kombu decodes in the middle of methods that do much more, by calling a global of its module.
    A copy of such a method would miss what the next release adds to it, and a patch of the
    global would reach every other user of the module.
    """
    rebound = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    rebound.__kwdefaults__ = function.__kwdefaults__
    rebound.__doc__ = function.__doc__
    return rebound


class Channel(redis.Channel):  # type: ignore[misc]
    """kombu's channel: keys, scripts, connections and options are its own."""

    Message = Message

    _brpop_read = _rebound(redis.Channel._brpop_read, loads=decode_envelope)
    _get = _rebound(redis.Channel._get, loads=decode_envelope)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not _has_kombus_body_codec(self):
            # Such a codec has to see the body as it came, so kombu decodes here.
            self._brpop_read = super()._brpop_read
            self._get = super()._get
        super().__init__(*args, **kwargs)


class Transport(redis.Transport):  # type: ignore[misc]
    """kombu's transport, opening channels that decode in Rust."""

    Channel = Channel


def _has_kombus_body_codec(channel: redis.Channel) -> bool:
    return (
        type(channel).decode_body is virtual.Channel.decode_body
        and type(channel.codecs.get("base64")) is virtual.base.Base64
    )
