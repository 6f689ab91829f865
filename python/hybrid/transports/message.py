"""Messages of virtual transports, decoded in Rust wherever that gives what kombu gives.

:func:`decode_envelope` turns the text of an envelope into what :class:`Message` is made of, and
:class:`Message` decodes its body when the payload is read. Both use kombu's own code for every
input that Rust does not take, so values and errors are kombu's on all inputs.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Callable

from kombu.serialization import registry
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads as kombu_loads

from hybrid import _rust
from hybrid._rust import Delivery
from hybrid.encoding import JSON

# kombu has no public way to ask for these; `test_decoding` fails when a release moves them.
_decoders = registry._decoders
_disabled = registry._disabled_content_types


def decode_envelope(data: str | bytes) -> Any:
    """Decode the text of one envelope.

    Returns:
        A delivery, or what ``kombu.utils.json.loads`` returns when Rust does not take the
        input. :class:`Message` accepts either.

    Raises:
        ValueError: kombu's, for text that is not JSON.
    """
    try:
        return _rust.decode_envelope(data)
    except _rust.DecodeError:
        return kombu_loads(bytes_to_str(data))


class OurMessage:
    """What our messages do otherwise than kombu's, whose class comes behind this one."""

    _decoded_cache: Any
    _state: str
    accept: Any
    ack_log_error: Callable[..., None]
    body: Any
    channel: Any
    content_encoding: Any
    content_type: Any
    delivery_tag: Any

    def decode(self) -> Any:
        """Return the decoded body, and remember it."""
        return self.payload

    @property
    def payload(self) -> Any:
        """The decoded body."""
        cached = self._decoded_cache
        if not cached:
            cached = self._decoded_cache = self._decode()
        return cached

    def ack_soon_log_error(self, logger: Any, errors: Any) -> None:
        """Acknowledge the message as ``ack_log_error`` does, but wait for nothing."""
        self.ack_log_error(logger, errors)

    def _raw_body(self) -> Any:
        return self.body

    def _decode(self) -> Any:
        body = self._raw_body()
        if body and self.content_type == JSON and _decoders.get(JSON) is kombu_loads:
            accept, encoding = self.accept, self.content_encoding
            # kombu does not use the encoding of JSON, but trips over one that is no string.
            accepted = JSON in accept if accept is not None else JSON not in _disabled
            if accepted and (encoding is None or type(encoding) is str):
                try:
                    return _rust.loads(body)
                except _rust.DecodeError:
                    pass
        return super()._decode()  # type: ignore[misc]


class Message(OurMessage, virtual.Message):  # type: ignore[misc]
    """A message of a virtual transport whose envelope and JSON body are decoded in Rust.

    Args:
        payload: A delivery, or an envelope as kombu decodes it.
        channel: The channel that received it.
    """

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        self.errors: list[Any] = []
        if type(payload) is not Delivery:
            super().__init__(payload, channel, **kwargs)
            return
        # What the two constructors of kombu do, minus what a delivery has behind it: the body
        # is in bytes and not compressed. Attribute by attribute, because a call costs more
        # than all of them.
        self._delivery = payload
        self.channel = channel
        self.delivery_tag = payload.delivery_tag
        self.content_type = payload.content_type
        self.content_encoding = payload.content_encoding
        self.delivery_info = payload.delivery_info or {}
        self.headers = payload.headers or {}
        self.properties = payload.properties
        self.body = payload.body
        self.accept = kwargs.get("accept")
        self._decoded_cache = None
        self._state = "RECEIVED"

    @cached_property
    def _raw(self) -> Any:
        """The whole envelope, which kombu keeps and hybrid decodes when somebody asks."""
        raw = self._delivery.raw
        try:
            return _rust.loads(raw)
        except _rust.DecodeError:
            return kombu_loads(bytes_to_str(raw))
