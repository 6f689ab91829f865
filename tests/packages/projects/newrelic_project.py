"""New Relic's agent, started by ``newrelic-admin run-program``, without its collector."""

from __future__ import annotations

from typing import Any

from common import make_app, tell
from newrelic.core.application import Application

_record = Application.record_transaction


def record(self: Application, data: Any) -> None:
    """Tell what is about to be gathered."""
    tell(
        "transaction",
        name=data.name,
        group=data.group,
        type=data.type,
        errors=[(error.type, error.message) for error in data.errors],
        attributes=sorted(attribute.name for attribute in data.agent_attributes),
        distributed=[data.parent_transport_type, data.parent_type],
    )
    for call in _names(data.root):
        tell("call", within=data.name, name=call)
    _record(self, data)


def _names(node: Any) -> list[str]:
    """Return what was called in a transaction, but for commands of Redis."""
    found = [type(node).__name__ + " " + str(getattr(node, "name", ""))]
    for child in node.children:
        if "Datastore" not in type(child).__name__:
            found += _names(child)
    return found


Application.record_transaction = record
app = make_app()
