"""SQLAlchemy: a scoped session that tasks share, removed behind each; results in its database."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import shared_task
from celery.signals import task_postrun, worker_init
from common import make_app, ran, tell
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

URL = os.environ["HYBRID_TEST_DATABASE"]
engine = create_engine(URL, connect_args={"timeout": 60})
Session = scoped_session(sessionmaker(engine))
app = make_app()


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


@worker_init.connect
def make_tables(**_: Any) -> None:
    Base.metadata.create_all(engine)


@task_postrun.connect
def remove_session(task: Any, **_: Any) -> None:
    tell("removed", task=task.name, had_session=Session.registry.has())
    Session.remove()


@shared_task(name="store")
def store(number: int) -> int:
    ran("store", number)
    Session.add(Row(number=number))
    time.sleep(0.01)
    Session.commit()
    return Session.query(Row).filter_by(number=number).count()


@shared_task(name="store_and_fail")
def store_and_fail(number: int) -> None:
    ran("store_and_fail", number)
    Session.add(Row(number=-number))
    time.sleep(0.01)
    raise ValueError(f"row {number} is not stored")
