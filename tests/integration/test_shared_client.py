"""Runs the tests in ``green/`` on real brokers, on each hub in an interpreter patched for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness.brokers import Brokers, MissingServerError
from harness.green import run_green

GREEN = Path(__file__).parent / "green"


@pytest.mark.parametrize("path", sorted(GREEN.glob("test_*.py")), ids=lambda path: path.stem)
@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
def test_the_file_passes_on_the_hub(hub: str, path: Path, brokers: Brokers) -> None:
    if path.stem.startswith("test_amqp"):
        try:
            rabbit = brokers.rabbit
            control = json.dumps(rabbit.control_environment)
            run_green(
                hub,
                path,
                AMQP_URL=rabbit.url,
                AMQPS_URL=rabbit.tls_url,
                AMQPS_CERTIFICATE=str(rabbit.certificate),
                AMQP_CONTROL=control,
            )
        except MissingServerError as exc:
            pytest.skip(str(exc))
    else:
        run_green(hub, path, REDIS_URL=brokers.redis.new_database())
