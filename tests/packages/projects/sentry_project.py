"""Sentry: errors, traces and logs, as its documentation sets them up."""

from __future__ import annotations

from typing import Any

import sentry_sdk
from common import make_app, tell
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport


class Told(Transport):
    """Tells what would have been sent."""

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            payload: Any = item.payload.json or {}
            if item.type == "log":
                for line in payload["items"]:
                    self._tell_line(line["body"], line["level"], line["attributes"])
            elif item.type == "event":
                self._tell_event(payload)
            elif item.type == "transaction":
                self._tell_transaction(payload)
            else:
                tell("other", type=item.type)

    def _tell_line(self, body: str, level: str, fields: dict[str, Any]) -> None:
        kept = ("logger.name", "number", "sentry.message.template")
        values = {name: fields[name]["value"] for name in kept if name in fields}
        tell("log", body=body, level=level, fields=sorted(fields), **values)

    def _tell_event(self, event: dict[str, Any]) -> None:
        errors = [
            {
                "type": error["type"],
                "value": error["value"],
                "mechanism": error["mechanism"],
                "frames": [
                    (frame["module"], frame["function"]) for frame in error["stacktrace"]["frames"]
                ],
            }
            for error in event.get("exception", {}).get("values", ())
        ]
        kept = ("transaction", "level", "logger", "tags", "extra", "fingerprint", "message")
        tell(
            "event",
            errors=errors,
            trace=sorted(event["contexts"]["trace"]),
            breadcrumbs=len(event.get("breadcrumbs", {}).get("values", ())),
            **{key: event.get(key) for key in kept},
        )

    def _tell_transaction(self, event: dict[str, Any]) -> None:
        root = event["contexts"]["trace"]
        for span in (root, *event["spans"]):
            data = span.get("data") or {}
            tell(
                "span",
                trace=span["trace_id"],
                id=span["span_id"],
                parent=span.get("parent_span_id"),
                name=span.get("description") or event["transaction"],
                op=span["op"],
                status=span.get("status"),
                origin=span.get("origin"),
                data={key: data[key] for key in data if not key.startswith("thread.")},
            )


sentry_sdk.init(
    dsn="http://key@127.0.0.1:1/1",
    transport=Told,
    traces_sample_rate=1.0,
    enable_logs=True,
    integrations=[CeleryIntegration()],
)
app = make_app()
