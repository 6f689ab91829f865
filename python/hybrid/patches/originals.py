"""Functions of other packages that our code does the work of, as their source defines them.

Tracing libraries put wrappers around such functions, and so do users. Where a shorter way leaves
one of them out, what has been put around it would see nothing. So whoever has a shorter way asks
first, each time, whether the function is the one that its package defines.

A wrapper can answer for all attributes of what it wraps (wrapt's do, ``functools.wraps`` copies
them), so none of these is asked. What counts is identity: with the function that was there when
this module looked first, provided that it was its package's own by then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Callable


class Original:
    """A method of a class of another package, or a function, as that package defines it.

    Args:
        owner: The class or module that defines it.
        name: Its name there.
    """

    __slots__ = ("code", "function", "name", "owner")

    def __init__(self, owner: type | ModuleType, name: str) -> None:
        self.owner = owner
        self.name = name
        found: Any = getattr(owner, "__dict__", {}).get(name)
        #: The function; ``None`` where something else was in its place already.
        self.function: Any = None
        self.code: Any = None
        if _is_defined(found, owner):
            self.function = found
            self.code = found.__code__

    def is_in(self, cls: type | ModuleType) -> bool:
        """Tell whether this is what ``cls``, the owner or a class derived from it, has."""
        function: Any = self.function
        return (
            function is not None
            and function.__code__ is self.code
            and getattr(cls, self.name, None) is function
        )

    def explain(self, cls: type | ModuleType) -> str:
        """Say what ``cls`` has in its place."""
        for place in (cls,) if isinstance(cls, ModuleType) else cls.__mro__:
            if self.name in vars(place):
                what = f"{_full_name(place)}.{self.name}"
                if place is not self.owner:
                    return f"{what} is none of {_package(self.owner)}'s"
                module = _module(vars(place)[self.name])
                if module == _home(self.owner):
                    return f"the code of {what} has been changed"
                return f"{what} has been replaced by {module}"
        return f"{_full_name(cls)}.{self.name} is not there"


class Originals:
    """Methods that are left out together.

    Args:
        methods: For each the class that defines it, its name, and the class that is to have it, if
            that is one derived from the first.
    """

    __slots__ = ("_all", "are_intact")

    #: Tells whether nothing has been put in the place of one of them.
    are_intact: Callable[[], bool]

    def __init__(self, *methods: tuple[type, str] | tuple[type, str, type]) -> None:
        self._all = [(Original(owner, name), (*rest, owner)[0]) for owner, name, *rest in methods]
        if any(one.function is None for one, _ in self._all):
            self.are_intact = bool  # which is False, for good
            return
        # Asked for each message. Written out, it costs a quarter of a loop.
        names: dict[str, Any] = {}
        checks = []
        for number, (one, cls) in enumerate(self._all):
            owner, function, code = f"owner{number}", f"function{number}", f"code{number}"
            names.update({owner: cls, function: one.function, code: one.code})
            checks.append(f"{owner}.{one.name} is {function} and {function}.__code__ is {code}")
        self.are_intact = eval(f"lambda: {' and '.join(checks)}", names)

    def explain(self) -> list[str]:
        """Say what has been put in their places, one sentence each."""
        return [one.explain(cls) for one, cls in self._all if not one.is_in(cls)]


def is_plain(function: Any, among: CodeType | None) -> bool:
    """Tell whether ``function`` is one that the code ``among`` has made, and nothing around it."""
    return (
        type(function) is FunctionType
        and not hasattr(function, "__wrapped__")
        and among is not None
        and any(function.__code__ is const for const in among.co_consts)
    )


def _is_defined(function: Any, owner: type | ModuleType) -> bool:
    """Tell whether ``function`` is what the source of ``owner``, a class or module, defines."""
    module = sys.modules[_home(owner)]
    scope = "" if isinstance(owner, ModuleType) else owner.__qualname__
    return (
        type(function) is FunctionType
        and not hasattr(function, "__wrapped__")
        and function.__globals__ is vars(module)
        and function.__qualname__.rpartition(".")[0] == scope
        and any(
            _is_same(function.__code__, code)
            for code in _defined_codes(_code_of(module.__name__), function.__qualname__)
        )
    )


@lru_cache(maxsize=1)  # those of one module are mostly asked for together
def _code_of(module: str) -> CodeType | None:
    """Return the code of a module as it is in its file."""
    try:
        loader: Any = sys.modules[module].__spec__.loader  # type: ignore[union-attr]
        code: CodeType | None = loader.get_code(module)
    except Exception:
        return None  # without source or byte code, or by a loader that does not tell
    return code


def _defined_codes(module: CodeType | None, qualname: str) -> Iterator[CodeType]:
    """Yield the code of all functions of that name in the code of a module."""
    found = [module]
    for name in qualname.split("."):
        found = [
            const
            for code in found
            if code is not None
            for const in code.co_consts
            if type(const) is CodeType and const.co_name == name
        ]
    yield from filter(None, found)


def _is_same(one: CodeType, other: CodeType) -> bool:
    # Some tracers change the code of a function in place, and leave all else as it was.
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("co_code", "co_names", "co_varnames", "co_freevars", "co_firstlineno")
    )


def _home(owner: type | ModuleType) -> str:
    """Return the module that ``owner`` is, or is defined in."""
    return owner.__name__ if isinstance(owner, ModuleType) else owner.__module__


def _full_name(owner: type | ModuleType) -> str:
    return _home(owner) if isinstance(owner, ModuleType) else f"{_home(owner)}.{owner.__qualname__}"


def _package(owner: type | ModuleType) -> str:
    return _home(owner).partition(".")[0]


def _module(found: Any) -> str:
    """Return where something was written that is in the place of a method."""
    wrapper = getattr(found, "_self_wrapper", found)  # wrapt's wrappers are all of one class
    if isinstance(wrapper, MethodType):
        wrapper = wrapper.__func__
    if type(wrapper) is FunctionType:
        # Its own name may be a copy of what it wraps.
        return str(wrapper.__globals__.get("__name__"))
    return type(wrapper).__module__
