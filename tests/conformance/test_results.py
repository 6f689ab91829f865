"""What a task returns or raises is what its caller gets."""

from __future__ import annotations

import pytest
from celery import Celery, states
from celery.exceptions import NotRegistered
from harness.journal import Journal
from harness.waiting import eventually
from harness.worker import CELERY, StartWorker, Worker


def test_a_result_reaches_its_caller(client: Celery) -> None:
    result = client.signature("add", (2, 3)).delay()
    assert result.get(timeout=15) == 5
    assert result.state == states.SUCCESS


def test_many_results_reach_the_callers_they_belong_to(client: Celery) -> None:
    results = [client.signature("add", (number, 1000)).delay() for number in range(60)]
    assert [result.get(timeout=30) for result in results] == list(range(1000, 1060))


def test_keyword_arguments_and_text_arrive_unchanged(client: Celery) -> None:
    sent = {"text": "naïve ✓ \U0001f40d", "nested": {"list": [1, 2.5, None, True]}, "big": 2**70}
    assert client.signature("echo", kwargs=sent).delay().get(timeout=15) == sent


def test_the_extended_result_names_task_worker_and_arguments(
    client: Celery, worker: Worker
) -> None:
    result = client.signature("add", (2, 3)).delay()
    result.get(timeout=15)
    assert (result.name, result.args, result.worker) == ("add", [2, 3], worker.node)
    assert result.date_done is not None


def test_a_bound_task_sees_its_own_request(client: Celery, worker: Worker) -> None:
    result = client.signature("describe", (1,), {"key": "value"}).delay()
    seen = result.get(timeout=15)
    assert seen["id"] == seen["root_id"] == seen["correlation_id"] == result.id
    assert (seen["args"], seen["kwargs"]) == ([1], {"key": "value"})
    assert (seen["task"], seen["name"]) == ("describe", "describe")
    assert seen["hostname"] == worker.node
    assert seen["queue"] == worker.space.name
    assert (seen["retries"], seen["eager"], seen["parent_id"]) == (0, False, None)


@pytest.mark.parametrize(
    ("args", "kind", "text"),
    [
        (("ValueError", "bad"), ValueError, "bad"),
        (("KeyError", "gone"), KeyError, "gone"),
    ],
)
def test_an_exception_reaches_its_caller_with_its_type(
    client: Celery, args: tuple[str, ...], kind: type[Exception], text: str
) -> None:
    result = client.signature("fail", args).delay()
    with pytest.raises(kind) as caught:
        result.get(timeout=15)
    assert caught.value.args == (text,)
    assert result.state == states.FAILURE


def test_an_exception_of_the_project_keeps_its_name_and_arguments(client: Celery) -> None:
    result = client.signature("fail", ("OddError", 404, "not here")).delay()
    with pytest.raises(Exception, match="not here") as caught:
        result.get(timeout=15)
    assert type(caught.value).__name__ == "OddError"
    assert caught.value.args == (404, "not here")


def test_a_failure_keeps_its_traceback_and_its_cause(client: Celery) -> None:
    result = client.signature("fail_with_cause").delay()
    with pytest.raises(ValueError, match="outer"):
        result.get(timeout=15)
    assert "fail_with_cause" in result.traceback
    assert "KeyError: 'missing'" in result.traceback
    assert "direct cause" in result.traceback


def test_an_unencodable_result_is_a_failure_of_that_task_alone(client: Celery) -> None:
    result = client.signature("unpicklable").delay()
    with pytest.raises(Exception, match=r"(?i)serializ"):
        result.get(timeout=15)
    assert client.signature("add", (1, 1)).delay().get(timeout=15) == 2


def test_an_unknown_task_fails_as_not_registered(client: Celery) -> None:
    result = client.send_task("nobody.registered.this")
    with pytest.raises(NotRegistered):
        result.get(timeout=15)


def test_wrong_arguments_fail_as_a_type_error(client: Celery) -> None:
    result = client.signature("add", (1, 2, 3)).delay()
    with pytest.raises(TypeError):
        result.get(timeout=15)


def test_an_ignored_result_is_not_stored(client: Celery, journal: Journal, tag: str) -> None:
    by_task = client.signature("forgetful", (tag,)).delay()
    by_message = client.signature("note", (tag, "run", 5)).apply_async(ignore_result=True)
    journal.wait_for(tag, "run", times=2)
    assert client.signature("add", (1, 1)).delay().get(timeout=15) == 2
    if CELERY != (5, 6):  # which takes the word of a client that does not know the task
        assert by_task.state == states.PENDING
    if CELERY >= (5, 7):  # Older releases overlook what the message says.
        assert by_message.state == states.PENDING


def test_a_custom_state_and_its_meta_are_seen_while_the_task_runs(
    client: Celery, journal: Journal
) -> None:
    result = client.signature("progress", (3,)).delay()
    eventually(lambda: result.info == {"done": 3, "of": 3}, "the last step")
    assert result.state == "PROGRESS"
    journal.write(result.id, "go on")
    assert result.get(timeout=15) == "complete"
    assert [entry["backend"] for entry in journal.entries(result.id, "step")] == ["PROGRESS"] * 3


def test_a_running_task_is_reported_as_started(client: Celery, journal: Journal, tag: str) -> None:
    result = client.signature("hold", (tag,)).delay()
    eventually(lambda: result.state == states.STARTED, "STARTED")
    journal.write(tag, "go")
    assert result.get(timeout=15) is None


def test_link_and_link_error_are_called(client: Celery, journal: Journal, tag: str) -> None:
    link = client.signature("note_any", kwargs={"tag": tag, "event": "linked"})
    link_error = client.signature("note_any", kwargs={"tag": tag, "event": "link_error"})
    good = client.signature("add", (1, 2)).apply_async(link=link, link_error=link_error)
    assert good.get(timeout=15) == 3
    assert journal.wait_for(tag, "linked")[0]["args"] == [3]
    bad = client.signature("fail", ("ValueError", "x")).apply_async(
        link=link, link_error=link_error
    )
    with pytest.raises(ValueError, match="x"):
        bad.get(timeout=15)
    called = journal.wait_for(tag, "link_error")
    # An error callback that takes any number of arguments gets (request, exc, traceback).
    assert bad.id in called[0]["args"][0]
    assert called[0]["args"][1] == "ValueError('x')"
    assert journal.events(tag) == ["linked", "link_error"]


def test_eager_tasks_run_inside_their_caller_and_restore_its_request(client: Celery) -> None:
    seen = client.signature("eager_inside").delay().get(timeout=15)
    assert seen == {
        "eager": True,
        "inner is outer": False,
        "restored": True,
        "class": "EagerResult",
    }


@pytest.mark.dedicated
def test_with_task_always_eager_nothing_reaches_the_broker(start_worker: StartWorker) -> None:
    worker = start_worker(settings={"task_always_eager": True})
    worker.client.conf.task_always_eager = False
    seen = worker.client.send_task("delay_inside").get(timeout=15)
    assert seen == {"class": "EagerResult", "value": 5}


@pytest.mark.dedicated
def test_rpc_results_come_back_on_the_callers_own_queue(
    start_worker: StartWorker, broker: str
) -> None:
    if broker != "rabbitmq":
        pytest.skip("rpc:// sends results through AMQP")
    worker = start_worker(settings={"result_backend": "rpc://", "journal_url": "redis://"})
    client = worker.client
    results = [client.signature("add", (number, 1)).delay() for number in range(20)]
    assert [result.get(timeout=20) for result in results] == list(range(1, 21))
    failed = client.signature("fail", ("ValueError", "by mail")).delay()
    with pytest.raises(ValueError, match="by mail"):
        failed.get(timeout=15)
