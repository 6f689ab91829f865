"""A queue of the example's own on whatever broker it was given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from celery import Celery

from launch.errors import LaunchError

CONNECT_TIMEOUT = 5.0


@contextlib.contextmanager
def own_queue(app: Celery) -> Iterator[None]:
    """Check that the broker of ``app`` answers, and delete the app's queue after the block.

    Raises:
        LaunchError: The broker cannot be reached, or its URL makes no sense.
    """
    try:
        with app.connection_for_write(transport_options={"max_retries": 1}) as connection:
            connection.ensure_connection(max_retries=1, timeout=CONNECT_TIMEOUT)
            address = connection.as_uri()
    except Exception as error:
        raise LaunchError(
            f"no broker at {safe(str(app.conf.broker_url))}: {type(error).__name__}: {error}; "
            "check --broker, or leave it out for an embedded Redis"
        ) from error
    try:
        yield
    finally:
        try:
            with app.connection_for_write() as connection:
                connection.default_channel.queue_delete(app.conf.task_default_queue)
        except connection.connection_errors as error:
            # Nothing is left to clean up on a broker that is gone.
            print(f"the broker at {address} went away: {error}")
        app.close()


def safe(url: str) -> str:
    """Return ``url`` without the user's name and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
