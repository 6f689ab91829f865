from typing import Any, Callable, TypeVar, final

from typing_extensions import disjoint_base

__all__ = [
    "DecodeError",
    "Delivery",
    "Packing",
    "Slab",
    "SlabFullError",
    "TimerEntry",
    "TimerHeap",
    "__version__",
    "decode_envelope",
    "loads",
]

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
