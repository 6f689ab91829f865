"""kombu's AMQP transport, handling many messages per read and per write.

Options, TLS, most methods and all errors are py-amqp's. What is done otherwise: ``connection``
reads for everybody, what waits for whoever drains events is in its ``inbox``, and ``outbox``
writes. A ``channel`` is four layers: ``calling``, ``settling``, ``consuming`` and ``publishing``;
``epoch`` is what belongs to one opening of it, ``call`` a method that the broker answers,
``confirms`` what it takes charge of, and ``message`` what it delivers.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import pyamqp

from hybrid import hubs
from hybrid.transports.amqp.channel import Channel
from hybrid.transports.amqp.connection import Connection

__all__ = ["Channel", "Connection", "SSLTransport", "Transport"]


class _Gathering:
    """Opens our connections wherever greenlets of a pool of ours use them."""

    Connection: Any

    def establish_connection(self) -> Any:
        """Connect to the broker.

        Raises:
            OSError: It cannot be reached.
            amqp.AMQPError: It refuses.
        """
        hub = hubs.running()
        is_ours = hub is not None and hub.in_thread()
        self.Connection = Connection if is_ours else pyamqp.Connection
        return super().establish_connection()  # type: ignore[misc]


class Transport(_Gathering, pyamqp.Transport):  # type: ignore[misc]
    """kombu's transport on our connections."""


class SSLTransport(_Gathering, pyamqp.SSLTransport):  # type: ignore[misc]
    """kombu's transport over TLS on our connections."""
