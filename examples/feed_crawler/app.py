"""The Celery app: ``celery -A feed_crawler.app worker -P hybrid.gevent -c 500``."""

from __future__ import annotations

from celery import Celery

from feed_crawler.settings import Settings


def create_app(settings: Settings) -> Celery:
    """Build the app for ``settings``."""
    app = Celery("feed_crawler", broker=settings.broker, include=["feed_crawler.tasks"])
    if settings.broker.startswith("redis"):
        # kombu allows 10 by default. On stock green pools every task acknowledges from its own
        # greenlet, and the eleventh at a time fails with "Too many connections": its message
        # stays unacknowledged until the visibility timeout.
        app.conf.broker_transport_options = {"max_connections": 2000}
    app.conf.update(
        task_default_queue=settings.queue,
        # The outcome is in SQLite. A result per task would be written and never read.
        task_ignore_result=True,
        # Every task may run twice without harm, so a killed worker may cost time but no feed.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        broker_connection_retry_on_startup=True,
    )
    return app


app = create_app(Settings.from_env())
