"""Every attribute of another package that we replace at run time: what, why, since when.

:class:`Patch` is one entry of the list. The entries are declared in a module per package that is
patched, which imports nothing of that package, and applied by whoever needs them:
``patches.celery.TRACE_INFO.replace(trace, info)``. What is applied can be undone, in the reverse
order, by :meth:`Registry.undo`. ``inspect stats`` shows what is applied at the moment.

This package is imported while Celery is, before anything is patched. So it imports nothing but what
Python itself has imported by then.
"""

from __future__ import annotations

import weakref
from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, Callable

_ABSENT: Any = object()
_NUMBERS = count()


class _Change:
    """What one attribute or entry was before, and what it is since."""

    __slots__ = ("_before", "_now", "_owner", "name", "number")

    def __init__(self, owner: Any, name: str, before: Any, now: Any) -> None:
        try:
            self._owner: Callable[[], Any] = weakref.ref(owner)
        except TypeError:  # a dictionary of a module
            self._owner = lambda: owner
        self.name = name
        self._before = before
        self._now = now
        self.number = next(_NUMBERS)

    @property
    def owner(self) -> Any:
        return self._owner()

    def undo(self) -> None:
        """Set it back, unless somebody else has put something around it meanwhile."""
        owner = self.owner
        if isinstance(owner, dict):
            if owner.get(self.name, _ABSENT) is self._now:
                if self._before is _ABSENT:
                    del owner[self.name]
                else:
                    owner[self.name] = self._before
        elif owner is not None and _own(owner, self.name) is self._now:
            if self._before is _ABSENT:
                delattr(owner, self.name)
            else:
                setattr(owner, self.name, self._before)


class Patch:
    """One attribute of another package that is replaced, on a class, a module or instances.

    Args:
        what: The place and name of the attribute, as in ``celery.app.trace.info``. ``()`` stands
            for an instance, as in ``celery.app.base.Celery().send_task``.
        why: What it is good for.
        since: The version of celery-hybrid that has it.
        is_new: Whether the package has no such attribute, and we add it for our own use.
    """

    __slots__ = ("_changes", "_is_for_good", "is_new", "since", "what", "why")

    def __init__(self, what: str, why: str, since: str, is_new: bool = False) -> None:
        self.what = what
        self.why = why
        self.since = since
        self.is_new = is_new
        #: By the identity of the owner, which goes with it, and the name.
        self._changes: dict[tuple[int, str], _Change] = {}
        self._is_for_good = False
        registry.add(self)

    @property
    def name(self) -> str:
        """The name of the attribute."""
        return self.what.rpartition(".")[2]

    def replace(self, owner: Any, value: Any) -> None:
        """Give ``owner`` another attribute.

        Raises:
            AttributeError: It has no such attribute: this release of the package is not known.
        """
        name = self.name
        if not self.is_new:
            getattr(owner, name)
        before = _own(owner, name)
        setattr(owner, name, value)
        self._note(owner, name, before, value)

    def specialise(self, instance: Any, cls: type) -> None:
        """Give ``instance`` a subclass of its own class.

        Raises:
            TypeError: ``cls`` is none.
        """
        before = type(instance)
        if not issubclass(cls, before):
            raise TypeError(f"{cls!r} is no subclass of {before!r}")
        instance.__class__ = cls
        self._note(instance, "__class__", before, cls)

    def replace_items(self, mapping: dict[str, str], items: Mapping[str, str]) -> None:
        """Overwrite entries of ``mapping``, a registry of the package.

        Raises:
            KeyError: It has no such entry: this release of the package is not known.
        """
        for key, value in items.items():
            before = mapping.get(key, _ABSENT)
            if before is _ABSENT and not self.is_new:
                raise KeyError(key)
            mapping[key] = value
            self._note(mapping, key, before, value)

    def drop_items(self, mapping: dict[str, Any], keys: Iterable[str]) -> None:
        """Drop entries of ``mapping``, a cache of the package, which makes them anew."""
        for key in keys:
            if mapping.pop(key, None) is not None:
                self.apply_for_good()

    def apply_for_good(self) -> None:
        """Take note that it has been applied, by other means, and cannot be undone."""
        self._is_for_good = True

    @property
    def is_in_use(self) -> bool:
        """Whether it is applied to anything."""
        return self._is_for_good or any(True for _ in self.changes())

    def is_applied(self, owner: Any) -> bool:
        """Tell whether it is applied to ``owner``."""
        return any(change.owner is owner for change in tuple(self._changes.values()))

    def changes(self) -> Iterator[_Change]:
        """Yield what it has changed and not undone, on owners that are still there."""
        for key, change in tuple(self._changes.items()):
            if change.owner is None:
                self._changes.pop(key, None)
            else:
                yield change

    def undo(self) -> None:
        """Set back whatever it has changed."""
        for change in sorted(self.changes(), key=lambda change: -change.number):
            change.undo()
        self._changes.clear()

    def _note(self, owner: Any, name: str, before: Any, now: Any) -> None:
        if before is now:
            return  # applied already
        key = id(owner), name
        earlier = self._changes.get(key)
        if earlier is not None and earlier.owner is owner and earlier._now is before:
            before = earlier._before
        self._changes[key] = _Change(owner, name, before, now)
        if len(self._changes) % _TIDY_EVERY == 0:
            for _ in self.changes():
                pass


#: Changes after which those of owners that are gone are looked for.
_TIDY_EVERY = 64


class Registry:
    """The list of patches of this process."""

    def __init__(self) -> None:
        self._patches: dict[str, Patch] = {}

    def add(self, patch: Patch) -> None:
        """Put ``patch`` on the list.

        Raises:
            ValueError: The same attribute is on it already.
        """
        if patch.what in self._patches:
            raise ValueError(f"{patch.what} is on the list already")
        self._patches[patch.what] = patch

    def __iter__(self) -> Iterator[Patch]:
        return iter(tuple(self._patches.values()))

    def applied(self) -> list[Patch]:
        """Return the patches that are applied to something."""
        return [patch for patch in self if patch.is_in_use]

    def statistics(self) -> list[dict[str, str]]:
        """Return what is applied, for ``inspect stats``."""
        return [{"what": patch.what, "since": patch.since} for patch in self.applied()]

    def undo(self) -> None:
        """Set back all that is applied, the latest first, but for what is for good.

        What somebody else has put something around meanwhile stays.
        """
        changes = [change for patch in self for change in patch.changes()]
        for change in sorted(changes, key=lambda change: -change.number):
            change.undo()
        for patch in self:
            patch._changes.clear()


registry = Registry()


def _own(owner: Any, name: str) -> Any:
    """Return what ``owner`` itself has by that name, and not its class or bases."""
    if name == "__class__":
        return type(owner)
    return vars(owner).get(name, _ABSENT)
