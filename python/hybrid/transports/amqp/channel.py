"""py-amqp's channel, taking, settling and publishing many messages at a time.

Who may switch: whoever calls a method that waits (for an answer, a confirmation, or until the
socket has what was written), in its own greenlet, and whoever handles deliveries, in the consumers'
callbacks. What the broker sends otherwise (answers, confirmations, the end of the channel) is
handled without switching by whoever reads. At each switch the channel's epoch may end: what is done
after it belongs to another one.
"""

from __future__ import annotations

from hybrid.transports.amqp.consuming import ConsumingChannel
from hybrid.transports.amqp.publishing import PublishingChannel


class Channel(ConsumingChannel, PublishingChannel):
    """py-amqp's channel for the greenlets of a hub. Belongs to the hub's thread."""
