"""What is opened before the pool is started is kombu's and Celery's, and stays so."""

from __future__ import annotations

from harness.worker import StartWorker


def test_a_channel_from_before_stays_kombus(start_worker: StartWorker, broker: str) -> None:
    worker = start_worker(app="early", concurrency=4)
    said = worker.client.signature("channel_classes").delay().get(timeout=20)
    kombus = {"redis": "kombu.transport.redis", "rabbitmq": "kombu.transport.pyamqp"}[broker]
    ours = {"redis": "hybrid.transports.redis", "rabbitmq": "hybrid.transports.amqp"}[broker]
    assert (said["early"], said["next"]) == (f"{kombus}.Channel", f"{kombus}.Channel")
    assert said["later"] == f"{ours}.channel.Channel"
    assert said["consumer"] == "celery.backends.redis.ResultConsumer"
    outcomes = worker.wait_outcomes(said["ids"], within=20)
    assert [outcomes[task_id]["result"] for task_id in said["ids"]] == [7, 7, 7]
