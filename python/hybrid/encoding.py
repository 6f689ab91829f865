"""JSON as kombu writes it, to the byte, made in Rust, for transports, backends and producers."""

from __future__ import annotations

from typing import Any

from kombu.serialization import registry
from kombu.utils.json import dumps as kombu_dumps

from hybrid import _rust

JSON = "application/json"

# kombu has no public way to ask for these; `test_decoding` fails when a release moves them.
_encoders = registry._encoders


def encode_json(value: Any) -> str | None:
    """Encode ``value`` as kombu's serializer ``json`` does.

    Returns:
        The text; ``None`` if only kombu's own code knows, or somebody has replaced it.
    """
    text = _rust.dumps(value)
    if text is None or _encoders["json"].encoder is not kombu_dumps:
        return None
    return text


def dumps(value: Any) -> str:
    """Encode ``value`` as ``kombu.utils.json.dumps`` does.

    Raises:
        TypeError: JSON has no way to say it.
    """
    text = _rust.dumps(value)
    return kombu_dumps(value) if text is None else text
