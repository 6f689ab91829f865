"""OpenTelemetry's instrumentation of Celery and, if the test says so, of redis-py."""

from __future__ import annotations

import os
from collections.abc import Sequence

from celery import shared_task
from celery.signals import worker_init
from common import make_app, ran, tell
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from redis import Redis


class Told(SpanExporter):
    """Tells what would have been sent."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            context = span.get_span_context()
            assert context is not None
            tell(
                "span",
                trace=context.trace_id,
                id=context.span_id,
                parent=span.parent and span.parent.span_id,
                name=span.name,
                of=span.kind.name,
                status=span.status.status_code.name,
                said=span.status.description,
                data=dict(span.attributes or {}),
                links=len(span.links),
                events=[(event.name, sorted(event.attributes or ())) for event in span.events],
            )
        return SpanExportResult.SUCCESS


@worker_init.connect
def instrument(**_: object) -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Told(), schedule_delay_millis=200))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()
    if "HYBRID_TEST_REDIS_TRACED" in os.environ:
        from opentelemetry.instrumentation.redis import RedisInstrumentor

        RedisInstrumentor().instrument()


app = make_app()
client = Redis.from_url(os.environ["HYBRID_TEST_REDIS"], max_connections=1000)


@shared_task(name="cache")
def cache(number: int) -> None:
    ran("cache", number)
    with trace.get_tracer("project").start_as_current_span("mine"):
        client.set(f"mine{number}", number)
    client.get(f"mine{number}")
