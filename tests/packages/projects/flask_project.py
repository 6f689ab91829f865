"""Flask, as its documentation makes Celery's tasks run in its application context."""

from __future__ import annotations

import time
from typing import Any

from celery import Task, shared_task
from common import make_app, ran, tell
from flask import Flask, current_app, g

flask_app = Flask("project")
flask_app.config["NAME"] = "configured"


class FlaskTask(Task):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with flask_app.app_context():
            return self.run(*args, **kwargs)


@flask_app.teardown_appcontext
def tear_down(error: BaseException | None) -> None:
    tell("torn down", number=g.get("number"), error=repr(error))


app = make_app()
app.Task = FlaskTask
app.set_default()
# Left by what a project does at import, for scripts and shells.
flask_app.app_context().push()


@shared_task(name="view")
def view(number: int) -> list[Any]:
    ran("view", number)
    found = g.get("number")
    g.number = number
    time.sleep(0.01)
    return [current_app.config["NAME"], found, g.number]


@shared_task(name="view_and_fail")
def view_and_fail(number: int) -> None:
    ran("view_and_fail", number)
    g.number = number
    time.sleep(0.01)
    raise ValueError(f"view {number} fails, with {g.number}")
