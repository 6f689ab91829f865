from types import FunctionType
from typing import Any, Callable, TypeVar, final

from typing_extensions import disjoint_base

__all__ = [
    "AckWindow",
    "AmqpDelivery",
    "AmqpError",
    "AmqpReader",
    "DecodeError",
    "Delivery",
    "EventLog",
    "JsonText",
    "Packing",
    "Slab",
    "SlabFullError",
    "TaskFunction",
    "TimerEntry",
    "TimerHeap",
    "Unchanged",
    "__version__",
    "decode_envelope",
    "decode_properties",
    "dumps",
    "encode_ack",
    "encode_acks",
    "encode_base64",
    "encode_nack",
    "encode_publish",
    "encode_qos",
    "encode_reject",
    "loads",
]

@final
class AckWindow:
    """The deliveries of one AMQP channel that the broker waits for, and the acks it gets.

    Gathers what is settled, and says how to send it: ``multiple`` only when every outstanding
    delivery before is settled by then. So the window must know *each* delivery of its channel
    that is to be acknowledged, those of ``basic.get`` included. A channel that is opened anew
    needs a new window. Memory is proportional to the number of outstanding deliveries.
    Safe to use from any thread.
    """

    def __new__(cls) -> AckWindow: ...
    def delivered(self, delivery_tag: int) -> bool:
        """Note a delivery that is to be settled.

        Returns ``False`` for one that is outstanding already, and for 0, which stands for all.
        """

    def settle(self, delivery_tag: int) -> bool:
        """Acknowledge a delivery with the next flush; ``False`` when it is not outstanding."""

    def forget(self, delivery_tag: int) -> bool:
        """Note that a delivery was settled on its own; ``False`` when it is not outstanding.

        For rejected and nacked deliveries. The reject or nack must be written before the acks of
        the next flush: one of those may be ``multiple`` and settle the delivery first, and a tag
        that the broker no longer waits for closes the channel.
        """

    def flush(self) -> list[tuple[int, bool]]:
        """Return the fewest acks for what was settled since the last flush, in order.

        Each is a delivery tag and ``multiple``, ready for :func:`encode_acks`. They have to be
        written in this order, and before those of a later flush.
        """

    def __len__(self) -> int:
        """Return the number of outstanding deliveries that the next flush does not settle."""

@final
class AmqpError(ValueError):
    """Bytes that are no AMQP, or a value that has to be encoded in Python.

    Attributes:
        kind: What was met. In a stream, which is then lost: ``frame-type``, ``frame-end``,
            ``frame-size``, ``unexpected-frame``, ``class``, ``body-size`` or ``truncated``. In
            the properties of one message: ``truncated``, ``flags``, ``table-type``, ``depth``,
            ``utf-8`` or ``range``. When encoding, upon which the caller asks py-amqp, which may
            encode it or raise an error of its own: ``type``, ``range``, ``length``, ``utf-8``,
            ``depth`` or ``frame-size``.
        index: The offset in bytes at which that was met: in the stream, in the content header,
            or in the frames written so far. 0 where there is no telling.
        items: What :meth:`AmqpReader.feed` had read by then; otherwise empty.
    """

    kind: str
    index: int
    items: list[AmqpDelivery | tuple[int, int, bytes]]
    def __new__(
        cls,
        kind: str,
        index: int,
        items: list[AmqpDelivery | tuple[int, int, bytes]] | None = None,
    ) -> AmqpError: ...

@final
class AmqpDelivery:
    """A message of ``basic.deliver`` (AMQP 0-9-1 section 1.8.3.9), as compact as it came.

    Holds the bytes of its method, header and body and no other objects; a read decodes, and
    returns a new object each time. Immutable, and safe to use from any thread.
    """

    @property
    def channel(self) -> int:
        """The number of the channel it came on."""

    @property
    def delivery_tag(self) -> int:
        """What acknowledges or rejects it on its channel."""

    @property
    def redelivered(self) -> bool:
        """Whether it was delivered before, perhaps to somebody else."""

    @property
    def consumer_tag(self) -> str:
        """The consumer it is for. Raises :class:`AmqpError` (``utf-8``) for what is no text."""

    @property
    def exchange(self) -> str:
        """The exchange it was published to. Raises as ``consumer_tag`` does."""

    @property
    def routing_key(self) -> str:
        """The routing key it was published with. Raises as ``consumer_tag`` does."""

    @property
    def header(self) -> bytes:
        """The payload of the content header frame, for :func:`decode_properties`."""

    @property
    def body(self) -> bytes:
        """The body; empty when there is none, where py-amqp has an empty ``str``."""

    @property
    def body_size(self) -> int:
        """The length of the body in bytes, which copies nothing."""

    def properties(self) -> dict[str, Any]:
        """Return the properties, as :func:`decode_properties` does.

        Raises:
            AmqpError: This message has broken properties. It can still be rejected.
        """

    def headers(self) -> dict[str, Any] | None:
        """Return ``application_headers`` alone, or ``None`` without them.

        Raises:
            AmqpError: What comes before the end of the headers is broken.
        """

    def __sizeof__(self) -> int: ...

@final
class AmqpReader:
    """Reads what a broker sends on one connection, in chunks of any size.

    Safe to use from any thread, though only one can know what the next chunk is.

    Args:
        frame_max: How many bytes a frame has at most, as agreed upon by ``connection.tune``; 0
            for no limit.
    """

    def __new__(cls, frame_max: int = 0) -> AmqpReader: ...
    def set_frame_max(self, frame_max: int) -> None:
        """Change the limit, from the next frame on that has not begun."""

    @property
    def pending_bytes(self) -> int:
        """How many bytes it holds of frames and deliveries that are not complete."""

    def feed(self, data: bytes, /) -> list[AmqpDelivery | tuple[int, int, bytes]]:
        """Read ``data``, which follows the chunks before, and return what is complete, in order.

        A delivery stands where its last frame came. Every other frame is a tuple of its type
        (1 method, 2 header, 3 body, 8 heartbeat), its channel and its payload, as py-amqp's
        ``on_inbound_frame`` takes it; those of ``basic.return`` and ``basic.get-ok`` as well.

        Memory is bounded by what was received, whatever a frame or a header declares.

        Raises:
            AmqpError: The stream is broken, and every later call raises the same error. Its
                ``items`` are those before the broken frame.
        """

def decode_properties(header: bytes, /) -> dict[str, Any]:
    """Decode the properties in the payload of a content header frame.

    The dict is that of ``amqp.serialization.decode_properties_basic``, in its types and its order:
    ``application_headers`` is a dict, ``timestamp`` a number of seconds. Field types are
    RabbitMQ's (https://www.rabbitmq.com/amqp-0-9-1-errata, section 3): ``s`` is a 16-bit number
    and ``l`` a signed 64-bit one, as in py-amqp since 5.4. Text that is not UTF-8 is ``bytes`` in
    a table. Tables nest at most 200 deep.

    Raises:
        AmqpError: The properties are truncated, unknown or otherwise broken. py-amqp reads on past
            the end of some of them.
    """

def encode_publish(
    channel: int,
    exchange: str | bytes | None,
    routing_key: str | bytes | None,
    mandatory: bool,
    immediate: bool,
    properties: dict[str, Any],
    body: bytes | str,
    frame_max: int,
) -> bytes:
    """Encode ``basic.publish`` (AMQP 0-9-1 section 1.8.3.7) with content header and body frames.

    The bytes are those that py-amqp writes. Values have to be of exactly these types: ``str``,
    ``bytes``, ``bool``, ``int``, ``float``, ``dict``, ``list``, ``tuple``, ``None`` and naive
    ``datetime``. Changes none of its arguments.

    Args:
        channel: The number of the channel.
        exchange: Its name; ``None`` and ``""`` for the default exchange.
        routing_key: At most 255 bytes, as the exchange.
        mandatory: Whether it comes back when no queue gets it.
        immediate: Refused by RabbitMQ since 3.0.
        properties: By py-amqp's names; those that are ``None`` are left out, as are other names.
        body: Text is encoded in ``content_encoding``, which has to be UTF-8; it is added when it
            is missing.
        frame_max: How many bytes a frame has at most, 0 for no limit.

    Raises:
        AmqpError: It is py-amqp's to encode, or to refuse.
    """

def encode_ack(channel: int, delivery_tag: int, multiple: bool = False) -> bytes:
    """Encode ``basic.ack``, AMQP 0-9-1 section 1.8.3.13, as py-amqp does."""

def encode_acks(channel: int, acks: list[tuple[int, bool]]) -> bytes:
    """Encode one ``basic.ack`` after another, as :meth:`AckWindow.flush` returns them."""

def encode_nack(channel: int, delivery_tag: int, multiple: bool, requeue: bool) -> bytes:
    """Encode ``basic.nack``, https://www.rabbitmq.com/nack.html; py-amqp cannot send it."""

def encode_reject(channel: int, delivery_tag: int, requeue: bool) -> bytes:
    """Encode ``basic.reject``, AMQP 0-9-1 section 1.8.3.14, as py-amqp does."""

def encode_qos(channel: int, prefetch_size: int, prefetch_count: int, a_global: bool) -> bytes:
    """Encode ``basic.qos``, AMQP 0-9-1 section 1.8.3.1, as py-amqp does."""

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

def dumps(value: Any, /) -> str | None:
    """Encode ``value`` as ``json.dumps`` does.

    Returns:
        The very text that ``json.dumps(value)`` returns; ``None`` for a value with anything in it
        whose encoding only Python knows: instances of other classes than ``dict``, ``list``,
        ``tuple``, ``str``, ``int``, ``float``, ``bool`` and ``None``, keys that are no strings,
        numbers that JSON does not have, whole ones beyond 64 bits, lone surrogates, and 200 levels
        of nesting.
    """

@final
class JsonText:
    """A JSON text, which :func:`dumps` takes into others as it is.

    ``str`` returns it. kombu's own encoder asks ``__json__`` for the value. Safe to use from any
    thread.
    """

    def __json__(self) -> Any: ...

def encode_base64(body: Any, /) -> str | None:
    """Return the base64 of a body.

    Returns:
        What ``base64.b64encode`` has for bytes, and for the UTF-8 of a text; ``None`` for anything
        else, and for lone surrogates.
    """

@final
class EventLog:
    """The JSON text of tasks' events, each with the worker's time and logical clock.

    ``len`` returns how many there are. Safe to use from any thread.

    Args:
        clock: Counts the events, by its attribute ``value``.
        limit: How many events there are at most.
    """

    def __new__(cls, clock: Any, limit: int) -> EventLog: ...
    def begin(self, head: str, until: float) -> None:
        """Begin each event with the members of an object that is the same for all.

        Args:
            head: The text of the object; an empty one for none, and no events.
            until: Seconds since the epoch, from which that is not so any more.

        Raises:
            ValueError: The head is neither empty nor an object with members.
        """

    def record(self, kind: str, fields: dict[str, Any], /) -> int:
        """Add an event, unless there is no room or :func:`dumps` knows no encoding of it.

        Args:
            kind: The event's ``type``.
            fields: What else it has, but for ``clock``, ``timestamp`` and the members of the head.

        Returns:
            How many events there are now, 1 for the first; 0 if this one was not added.
        """

    def take(self) -> JsonText | None:
        """Return the list of all events, which are forgotten; ``None`` if there are none."""

    def __len__(self) -> int: ...

@final
class Packing:
    """Byte strings that are much like one of them, kept small. Safe to use from any thread.

    Args:
        reference: What the others are like; the last 8 KiB of it count.
    """

    def __new__(cls, reference: bytes, /) -> Packing: ...
    def pack(self, data: bytes, /) -> bytes:
        """Return ``data`` in fewer bytes, or in a few more if it is like nothing."""

    def unpack(self, packed: bytes, /) -> bytes:
        """Return what was packed.

        Raises:
            ValueError: This packing has not made it.
        """

#: The version of the distribution.
__version__: str

class SlabFullError(Exception):
    """The slab holds as many jobs as its limit allows."""

@final
class Slab:
    """Jobs in flight, addressed by ticket. Lock-free, and safe to use from any thread.

    A ticket is a positive number below 2**64 that is never handed out again; one that is stale
    or made up finds nothing. Times are seconds of one monotonic clock, kept to the nanosecond.

    Args:
        limit: How many jobs it admits, 2**20 at most.
    """

    def __new__(cls, limit: int) -> Slab: ...
    @property
    def limit(self) -> int:
        """How many jobs the slab admits."""

    def set_limit(self, limit: int) -> None:
        """Change the limit. A smaller one removes nothing and refuses new jobs."""

    def insert(
        self,
        job: object,
        started: float,
        soft_deadline: float | None = None,
        hard_deadline: float | None = None,
    ) -> int:
        """Add a job and return its ticket.

        Raises:
            SlabFullError: The limit is reached.
        """

    def get(self, ticket: int) -> Any:
        """Return the job behind ``ticket``, or ``None`` when it is gone."""

    def take(self, ticket: int) -> Any:
        """Remove and return the job behind ``ticket``, or ``None`` when it is gone.

        Of several callers with one ticket, exactly one gets the job.
        """

    def scan(self) -> list[tuple[int, float, float | None, float | None]]:
        """Return ticket, start, soft and hard deadline of each job, in no particular order."""

    def __len__(self) -> int: ...

@final
class TaskFunction:
    """The function of a task, which keeps what part of its target a job is in.

    The job is found as ``getcurrent().__dict__["_slot"].job``. Its ``part`` becomes ``inside``
    while the function runs and ``after`` then; what it has ``owed`` by then, an exception class,
    is raised instead of calling the function or returning. Where there is no job, or its ``part``
    is not ``before``, the function is called, and that is all.

    Args:
        function: What to call.
        getcurrent: Returns the greenlet that runs.
        before: The ``part`` of a job that has not come to its function.
        inside: That of one whose function runs.
        after: That of one whose function has ended.
    """

    def __new__(
        cls,
        function: Callable[..., object],
        getcurrent: Callable[[], object],
        before: object,
        inside: object,
        after: object,
    ) -> TaskFunction: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

_Entry = TypeVar("_Entry", bound=TimerEntry)

@disjoint_base
class TimerEntry:
    """One scheduled call, with the attributes of :class:`kombu.asynchronous.timer.Entry`.

    Subclasses say what it means to call it. Belongs to the first heap it is pushed to.
    """

    def __new__(
        cls: type[_Entry],
        fun: Callable[..., object],
        args: Any = None,
        kwargs: dict[str, Any] | None = None,
    ) -> _Entry: ...
    @property
    def fun(self) -> Any: ...
    @property
    def args(self) -> Any: ...
    @property
    def kwargs(self) -> dict[str, Any]:
        """A new dict when there are none."""

    @property
    def eta(self) -> float:
        """When it is due, as given to the last push, in seconds."""

    @property
    def priority(self) -> int: ...
    @property
    def entry(self: _Entry) -> _Entry:
        """The entry itself."""

    @property
    def tref(self: _Entry) -> _Entry:
        """The entry itself."""

    @property
    def canceled(self) -> bool:
        """Whether it was cancelled since the last push. Setting it cancels."""

    @canceled.setter
    def canceled(self, canceled: bool) -> None: ...
    @property
    def cancelled(self) -> bool: ...
    @cancelled.setter
    def cancelled(self, canceled: bool) -> None: ...
    def cancel(self) -> None:
        """Take it out of its heap. Harmless when it is not in there."""

@final
class TimerHeap:
    """Entries by time, those of one time by insertion. Safe to use from any thread.

    Times are seconds of one monotonic clock, kept to the nanosecond.
    """

    def __new__(cls) -> TimerHeap: ...
    def push(self, entry: TimerEntry, eta: float, priority: int = 0) -> bool:
        """Add ``entry``, or move it; tell whether it is the earliest now.

        Args:
            entry: Leaves the place that it has, and is no longer cancelled.
            eta: Before the clock's zero it is due at once, infinite it never is.
            priority: Kept for whoever asks; does not change the order.

        Raises:
            ValueError: ``eta`` is not a number, or the entry belongs to another heap.
        """

    def expire(self, now: float, limit: int) -> list[Any]:
        """Remove and return the entries due at ``now``, ``limit`` at most, in order."""

    def next_eta(self) -> float | None:
        """Return the time of the earliest entry, or ``None`` without one."""

    def entries(self) -> list[Any]:
        """Return all entries, in no particular order."""

    def clear(self) -> None:
        """Remove all entries, without cancelling them."""

    def memory_bytes(self) -> int:
        """Return the size of the heap's buffers, without the entries."""

    def __len__(self) -> int: ...

@final
class Unchanged:
    """What has been looked at, and whether it still is what it was when this was made.

    Args:
        classes: Those whose attributes, and those of their bases, are to be the same objects.
        functions: Those that are to have the same code.
        objects: Those that are to have the same class and, for themselves, the same attributes.
        dicts: Those that are to have the same objects as keys and values, in the same order.
        lists: Those that are to have the same objects as items, in the same order.

    Raises:
        AttributeError: An object has no attributes of its own.
    """

    def __new__(
        cls,
        classes: list[type],
        functions: list[FunctionType],
        objects: list[Any],
        dicts: list[dict[Any, Any]],
        lists: list[list[Any]],
    ) -> Unchanged: ...
    def holds(self) -> bool:
        """Tell whether all of it is unchanged; ``False`` for good once a class is not.

        It costs some comparisons for each. A class is also taken for changed where CPython has no
        number for its state.
        """
