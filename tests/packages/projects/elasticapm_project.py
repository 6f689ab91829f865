"""Elastic APM, as its documentation sets it up for Celery."""

from __future__ import annotations

from typing import Any

from celery.signals import worker_init
from common import make_app, tell
from elasticapm import Client
from elasticapm.contrib.celery import register_exception_tracking, register_instrumentation
from elasticapm.transport.base import Transport


class Told(Transport):
    """Tells what would have been sent."""

    def start_thread(self, pid: int | None = None) -> None:
        """Start nothing."""

    def queue(self, event_type: str, data: dict[str, Any], flush: bool = False) -> None:
        """Tell of an event."""
        if event_type in ("transaction", "span"):
            tell(
                "span",
                trace=data["trace_id"],
                id=data["id"],
                parent=data.get("parent_id"),
                name=data["name"],
                type=data["type"],
                outcome=data["outcome"],
                result=data.get("result"),
                data=data.get("context"),
            )
        elif event_type == "error":
            tell(
                "error",
                message=data["exception"]["message"],
                handled=data["exception"].get("handled"),
                transaction=data.get("transaction"),
                culprit=data["culprit"],
            )


client = Client(
    service_name="project",
    transport_class="elasticapm_project.Told",
    transaction_sample_rate=1.0,
    span_compression_enabled=False,
    metrics_interval="0ms",
    central_config=False,
    cloud_provider="none",
)
app = make_app()


@worker_init.connect
def register(**_: object) -> None:
    import elasticapm

    elasticapm.instrument()
    register_exception_tracking(client)
    register_instrumentation(client)
