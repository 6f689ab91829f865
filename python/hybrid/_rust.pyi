from typing import Any, final

@final
class DecodeError(ValueError):
    """The input has to be decoded in Python, which may accept or refuse it.

    Attributes:
        kind: Why Rust did not decode it: ``json``, ``utf-8``, ``extension``, ``long-integer``,
            ``base64``, ``missing``, ``wrong-type``, ``compressed``, ``body-encoding`` or
            ``input``.
        index: The offset in bytes at which that was met.
    """

    kind: str
    index: int
    def __new__(cls, kind: str, index: int) -> DecodeError: ...

@final
class Delivery:
    """A decoded envelope: what ``kombu.transport.virtual.Message`` takes from one.

    Attributes:
        raw: The envelope as it was passed in.
        body: The body in bytes, no longer in its transfer encoding; ``None`` if there is none.
        content_type: As in the envelope; ``None`` when absent.
        content_encoding: As in the envelope; ``None`` when absent.
        headers: A dict without a compression, or ``None``.
        properties: A dict.
        delivery_tag: The entry of ``properties``.
        delivery_info: The entry of ``properties``, ``None`` when absent.
    """

    raw: str | bytes
    body: bytes | None
    content_type: Any
    content_encoding: Any
    headers: dict[str, Any] | None
    properties: dict[str, Any]
    delivery_tag: Any
    delivery_info: Any

def decode_envelope(data: str | bytes, /) -> Delivery:
    """Decode one message of kombu's virtual transports, as it sits in a Redis list.

    The values are those of ``kombu.utils.json.loads``, in exactly its types.

    Raises:
        DecodeError: kombu might read the input differently, or not at all.
    """

def loads(data: str | bytes, /) -> Any:
    """Decode one JSON text to the value that ``kombu.utils.json.loads`` gives.

    Raises:
        DecodeError: kombu might read the input differently, or not at all.
    """
