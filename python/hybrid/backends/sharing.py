"""One result backend for all greenlets of a worker.

Celery keeps one backend per thread, and to a patched interpreter a greenlet is a thread: every
one would build a backend and open a connection. Here they share one, where its code and the
library below it can be used by many threads at a time.
"""

from __future__ import annotations

from typing import Any

from hybrid.patches import celery as patches

#: Backends that hold a client which its library documents as thread-safe, or nothing at all.
SHAREABLE = frozenset(
    {
        "celery.backends.base.DisabledBackend",
        "celery.backends.database.DatabaseBackend",
        "celery.backends.dynamodb.DynamoDBBackend",
        "celery.backends.elasticsearch.ElasticsearchBackend",
        "celery.backends.filesystem.FilesystemBackend",
        "celery.backends.mongodb.MongoBackend",
        "celery.backends.redis.RedisBackend",
        "celery.backends.redis.SentinelBackend",
        "hybrid.backends.redis.backend.RedisBackend",
    }
)


def share(app: Any) -> str | None:
    """Let all greenlets use the backend of ``app``, if it can be shared.

    Returns:
        Why it is not shared; ``None`` if it is.
    """
    # A new one: what the project has made of its own before knows nothing of our pool.
    backend = app._get_backend()
    cls = type(backend)
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name not in SHAREABLE and not backend.thread_safe:
        return f"each greenlet has its own {name}, which is not known to be safe to share"
    patches.BACKEND_IS_SAFE.replace(backend, True)
    patches.APP_BACKEND.replace(app, backend)
    for task in app.tasks.values():
        if task._backend is None:
            patches.TASK_BACKEND.replace(task, backend)
    return None
