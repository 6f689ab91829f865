"""What differs between releases of Celery, where a test tells of it."""

from __future__ import annotations

from celery import VERSION


def celery_is(release: str) -> bool:
    """Tell whether this is Celery ``release``, as in ``"5.7"``, or a later one."""
    return tuple(VERSION[:2]) >= tuple(map(int, release.split(".")))
