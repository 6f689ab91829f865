"""The former place of the pool; its names are in :mod:`hybrid.worker.execution.pool`."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    from hybrid.worker.execution import pool

    if name.startswith("_") or not hasattr(pool, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = "hybrid.JobKilled" if name == "JobKilled" else f"hybrid.worker.execution.pool.{name}"
    warnings.warn(
        f"hybrid.worker.pool.{name} has moved; use {place}", DeprecationWarning, stacklevel=2
    )
    return getattr(pool, name)
