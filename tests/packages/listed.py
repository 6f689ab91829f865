"""The projects, and what in each may differ between stock and ours.

This is the table that README's is made from: a row of `differences` that nothing needs fails.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from effects import Effect
from runs import COMMON, Difference, Project, Run


def results_in_redis(run: Run) -> list[Effect]:
    """Return what Celery's Redis backend has stored."""
    redis = run.space.redis
    stored = [json.loads(redis.get(key)) for key in redis.scan_iter("celery-task-meta-*")]
    return [{"kind": "result", **meta} for meta in stored]


def locks_in_redis(run: Run) -> list[Effect]:
    """Return the locks that are left."""
    names = ("qo_*", "SINGLETONLOCK_*")
    return [{"kind": "lock"} for name in names for _ in run.space.redis.scan_iter(name)]


def sqlite(folder: Path) -> dict[str, str]:
    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(folder / "rows.sqlite3"),
        "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"},
    }
    return {"HYBRID_TEST_DATABASE": json.dumps(database)}


_TABLES = ("django_celery_results_taskresult", "django_celery_results_chordcounter", "shop_order")


def rows(run: Run, *tables: str) -> list[Effect]:
    """Return what is in these tables of the project's SQLite database."""
    with sqlite3.connect(run.folder / "rows.sqlite3") as connection:
        connection.row_factory = sqlite3.Row
        return [
            row_effect(table, dict(row))
            for table in tables
            for row in connection.execute(f"SELECT * FROM {table}")
        ]


def row_effect(table: str, row: dict[str, Any]) -> Effect:
    """Return a row as an effect: not its key, and of its times whether they are there."""
    times = ("date_created", "date_started", "date_done")
    return {
        "kind": table,
        **{
            name: value is not None if name in times else value
            for name, value in row.items()
            if name != "id"
        },
    }


def _is_their_command(effect: Effect) -> bool:
    """Tell whether it is the span of a command that broker or backend has sent."""
    data = json.dumps(effect.get("data"))
    return effect["kind"] == "span" and '"redis"' in data and "mine" not in data


COMMANDS = Difference(
    "spans of the commands of broker and backend",
    "an idle stock worker asks once a second, and ours sends many at once",
    _is_their_command,
)

SERIALIZATION = Difference(
    "New Relic's segment for kombu's serialization of a message",
    "messages are made in Rust, and kombu's serializer is not called",
    lambda effect: effect["kind"] == "call" and effect["name"].endswith("Serialization/Value"),
)

PROJECTS = (
    Project(
        "sentry",
        "sentry_project",
        needs=("sentry_sdk",),
        # Of a stock eventlet worker's first chord, Sentry loses a span that others name as parent.
        tasks=tuple(task for task in COMMON if task != "together"),
        ask=results_in_redis,
        differences=(COMMANDS,),
    ),
    Project(
        "opentelemetry",
        "opentelemetry_project",
        needs=("opentelemetry.instrumentation.celery",),
        tasks=(*COMMON, "cache"),
        ask=results_in_redis,
    ),
    Project(
        "opentelemetry-redis",
        "opentelemetry_project",
        needs=("opentelemetry.instrumentation.celery", "opentelemetry.instrumentation.redis"),
        tasks=(*COMMON, "cache"),
        environment=lambda folder: {"HYBRID_TEST_REDIS_TRACED": "1"},
        ask=results_in_redis,
        differences=(COMMANDS,),
    ),
    Project(
        "django",
        "django_project",
        needs=("django", "django_celery_results"),
        tasks=(*COMMON, "order", "order_and_fail"),
        environment=sqlite,
        ask=lambda run: rows(run, *_TABLES),
    ),
    Project(
        "ddtrace",
        "ddtrace_project",
        needs=("ddtrace",),
        launcher=("ddtrace-run",),
        environment=lambda folder: {
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "DD_TRACE_STARTUP_LOGS": "false",
        },
        ask=results_in_redis,
        differences=(COMMANDS,),
    ),
    Project(
        "newrelic",
        "newrelic_project",
        needs=("newrelic",),
        launcher=("newrelic-admin", "run-program"),
        environment=lambda folder: {
            "NEW_RELIC_APP_NAME": "project",
            "NEW_RELIC_DEVELOPER_MODE": "true",
            "NEW_RELIC_LICENSE_KEY": "0" * 40,
            "NEW_RELIC_LOG": str(folder / "newrelic.log"),
            "NEW_RELIC_STARTUP_TIMEOUT": "10",
        },
        ask=results_in_redis,
        differences=(SERIALIZATION,),
    ),
    Project(
        "elastic-apm",
        "elasticapm_project",
        needs=("elasticapm",),
        ask=results_in_redis,
        differences=(COMMANDS,),
    ),
    Project(
        "flask",
        "flask_project",
        needs=("flask",),
        tasks=(*COMMON, "view", "view_and_fail"),
        ask=results_in_redis,
    ),
    Project(
        "sqlalchemy",
        "sqlalchemy_project",
        needs=("sqlalchemy",),
        tasks=(*COMMON, "store", "store_and_fail"),
        environment=lambda folder: {"HYBRID_TEST_DATABASE": f"sqlite:///{folder}/rows.sqlite3"},
        ask=lambda run: [*results_in_redis(run), *rows(run, "rows")],
    ),
    Project(
        "structlog",
        "structlog_project",
        needs=("structlog",),
        tasks=(*COMMON, "say"),
        ask=results_in_redis,
    ),
    Project(
        "celery-once and -singleton",
        "locks_project",
        needs=("celery_once", "celery_singleton"),
        tasks=("send_twice",),
        ask=lambda run: [*results_in_redis(run), *locks_in_redis(run)],
    ),
    Project(
        "celery-batches",
        "batches_project",
        needs=("celery_batches",),
        tasks=("batch", "add"),
        ask=results_in_redis,
    ),
)
