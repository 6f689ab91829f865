"""What a project did, in a form that two runs of it can be compared in.

Each effect is one text. What differs between any two runs is put aside: identifiers, times, the
name of the worker. Spans are known by the names on the way to their root.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Effect = dict[str, Any]
Effects = Counter[str]

_VARYING = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
        (r"\b[0-9a-f]{32}\b|\b[0-9a-f]{16}\b", "<id>"),
        (r"datetime\.datetime\(.*?\)\)", "<time>"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.,:+Z]*", "<time>"),
        (r"\b\d+\.\d+(e-\d+)?(?=s\b)", "<seconds>"),
        (r"gen\d+@\S+?(?=['\" ,]|$)", "<sender>"),
        (r"\b\d+@[\w.-]+", "<sender>"),
        (r"\bw\d+@test\b", "<worker>"),
        (r"\bspace\d+\b", "<space>"),
        (r"\b127\.0\.0\.1:\d+(/\d+)?", "<server>"),
        (r"\b0x[0-9a-f]+", "<address>"),
        (r"\bhybrid\.(gevent|eventlet)\b", r"\1"),
    )
]


def read(file: Path) -> list[Effect]:
    """Return what the processes of a project have told so far."""
    *lines, _unfinished = file.read_text().split("\n") if file.exists() else [""]
    return [json.loads(line) for line in lines]


def plain(value: Any, key: str = "") -> Any:
    """Return ``value`` without what varies between runs."""
    if isinstance(value, dict):
        return {str(name): plain(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) or (isinstance(value, int) and value > 10_000):
        return "<number>"
    if isinstance(value, str):
        for pattern, replacement in _VARYING:
            value = pattern.sub(replacement, value)
    return value


def name_spans(effects: Iterable[Effect]) -> list[Effect]:
    """Give spans the names of their ancestors, instead of identifiers."""
    effects = list(effects)
    spans = {(span["trace"], span["id"]): span for span in effects if span["kind"] == "span"}

    def path(span: Effect) -> str:
        parent = spans.get((span["trace"], span["parent"]))
        if parent is None:
            return f"{'?' if span['parent'] else ''}/{span['name']}"
        return f"{path(parent)}/{span['name']}"

    ids = ("trace", "id", "parent", "name")
    return [
        {"path": path(effect), **{k: v for k, v in effect.items() if k not in ids}}
        if effect["kind"] == "span"
        else effect
        for effect in effects
    ]


def count(effects: Iterable[Effect]) -> Effects:
    """Return how often each effect came."""
    return Counter(json.dumps(plain(effect), sort_keys=True, default=str) for effect in effects)


def differences(stock: Effects, ours: Effects) -> list[str]:
    """Return what is not the same, for people to read."""
    return [
        f"stock {stock[effect]}, ours {ours[effect]}: {effect}"
        for effect in sorted(stock.keys() | ours.keys())
        if stock[effect] != ours[effect]
    ]
