"""kombu's client that puts a prefix before all keys, for a prefix of any letters.

kombu subscribes with ``PSUBSCRIBE``, to which some letters are a pattern, and cuts as many bytes
off the names that it receives as the prefix has letters.
"""

from __future__ import annotations

import re
from typing import Any

from kombu.transport import redis

_SPECIAL = re.compile(r"[*?\[\\]")


def literal(name: str) -> str:
    """Return the pattern that matches ``name`` and nothing else, as Redis reads patterns."""
    return _SPECIAL.sub(r"\\\g<0>", name)


class PrefixedRedis(redis.PrefixedStrictRedis):  # type: ignore[misc]
    """kombu's client with a prefix, for consumers."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """Read a reply; the key in that of ``BRPOP`` comes without the prefix."""
        reply = super(redis.GlobalKeyPrefixMixin, self).parse_response(
            connection, command_name, **options
        )
        if command_name == "BRPOP" and reply:
            key, value = reply
            return _cut(key, self.global_keyprefix), value
        return reply

    def pubsub(self, **options: Any) -> Any:
        """Return a client for publish/subscribe."""
        return _PrefixedPubSub(
            self.connection_pool, global_keyprefix=self.global_keyprefix, **options
        )


class _PrefixedPubSub(redis.PrefixedRedisPubSub):  # type: ignore[misc]
    """kombu's client for publish/subscribe, whose prefix is never a pattern."""

    def _prefix_args(self, args: Any) -> list[Any]:
        command, *names = args
        if command in ("PSUBSCRIBE", "PUNSUBSCRIBE"):
            return [command, *(literal(self.global_keyprefix) + name for name in names)]
        prefixed: list[Any] = super()._prefix_args(args)
        return prefixed

    def parse_response(self, *args: Any, **options: Any) -> Any:
        """Read what has come; patterns and channels come without the prefix."""
        reply = super(redis.PrefixedRedisPubSub, self).parse_response(*args, **options)
        if not isinstance(reply, (list, tuple)):
            return reply
        kind, *names, said = reply
        prefix = self.global_keyprefix
        if names and kind in _OF_PATTERNS:
            names[0] = _cut(names[0], literal(prefix))
            names[1:] = [_cut(name, prefix) for name in names[1:]]
        else:
            names = [_cut(name, prefix) for name in names]
        return [kind, *names, said]


#: Kinds of messages that begin with a pattern.
_OF_PATTERNS = frozenset(
    {"pmessage", "psubscribe", "punsubscribe", b"pmessage", b"psubscribe", b"punsubscribe"}
)


def _cut(name: Any, prefix: str) -> Any:
    """Return ``name``, which may be nothing, without ``prefix``."""
    if isinstance(name, bytes):
        return name.removeprefix(prefix.encode())
    return name.removeprefix(prefix) if isinstance(name, str) else name
