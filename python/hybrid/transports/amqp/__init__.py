"""kombu's AMQP transport, handling many messages per read and per write."""

from hybrid.transports.amqp.transport import Channel, Connection, SSLTransport, Transport

__all__ = ["Channel", "Connection", "SSLTransport", "Transport"]
