# SPDX-License-Identifier: Apache-2.0
"""Migrations as Celery tasks: registration, retries, callbacks."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Retry
from migrations import Plan, Renumber, execute
from scatter_test_app.models import Parcel

from django_scatter import migration as migration_module
from django_scatter import runtime, tasks
from django_scatter.errors import ScatterError
from django_scatter.migration import Change, Migration, Record, register


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    app = Celery("tests", broker="memory://", backend="cache+memory://", set_as_current=False)
    register(Renumber)
    app.finalize()
    yield app
    app.close()
    migration_module._registered.clear()


@pytest.fixture
def sent(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any], str]]:
    found: list[tuple[str, dict[str, Any], str]] = []
    monkeypatch.setattr(
        app, "send_task", lambda name, kwargs, task_id: found.append((name, kwargs, task_id))
    )
    return found


def message(plan: Plan) -> dict[str, Any]:
    request = plan.request()
    return {
        "plan": "plan-1", "batch": 1, "source": request.source, "database": "default",
        "sha256": request.sha256, "params": {},
    }  # fmt: skip


def a_plan(tmp_path: Path, phones: list[str]) -> Plan:
    Parcel.objects.bulk_create(Parcel(id=i, phone=p) for i, p in enumerate(phones, 1))
    return Plan(tmp_path, [[i, p] for i, p in enumerate(phones, 1)], Renumber())


def test_task_is_late_ack_and_requeued(app: Celery) -> None:
    task = app.tasks["tests.renumber"]
    assert task.acks_late
    assert task.reject_on_worker_lost
    assert task.max_retries is None


def test_result_tells_what_was_done(sqlite: str, app: Celery, tmp_path: Path) -> None:
    done = app.tasks["tests.renumber"].apply(kwargs=message(a_plan(tmp_path, ["0901", "+84"])))
    found = done.get()
    assert (found["plan"], found["batch"], found["state"]) == ("plan-1", 1, "done")
    assert found["counts"]["ok"] == 1
    assert set(found) == {
        "plan", "batch", "state", "counts", "duration", "records_per_second", "worker",
    }  # fmt: skip


def test_callbacks(sqlite: str, app: Celery, sent: list[Any], tmp_path: Path) -> None:
    plan = a_plan(tmp_path, ["0901", "raise"])
    plan.run()
    execute("UPDATE scatter_batch SET state = 'queued', position = 0, quarantined = 0")
    execute("DELETE FROM scatter_outcome")
    execute("UPDATE scatter_plan SET on_batch = 't.batch', on_finish = 't.end', state = 'running'")
    Parcel.objects.filter(id=1).update(phone="0901")
    app.tasks["tests.renumber"].apply(kwargs=message(plan)).get()
    (batch, batch_kwargs, batch_id), (end, end_kwargs, end_id) = sent
    assert (batch, end) == ("t.batch", "t.end")
    assert batch_id == str(uuid.uuid5(uuid.NAMESPACE_URL, "scatter:plan-1:1:on_batch"))
    assert end_id == str(uuid.uuid5(uuid.NAMESPACE_URL, "scatter:plan-1:on_finish"))
    assert batch_kwargs["batch"] == 1
    assert batch_kwargs["state"] == "done"
    assert batch_kwargs["counts"]["quarantined"] == 1
    assert [f["error_class"] for f in batch_kwargs["failures"]] == ["LookupError"]
    assert end_kwargs["state"] == "finished"
    assert end_kwargs["counts"]["planned"] == 2
    assert "batch" not in end_kwargs
    assert set(end_kwargs) == {
        "plan", "migration", "state", "counts", "duration", "worker", "failures",
    }  # fmt: skip


def test_failed_batch_calls_back_and_raises(
    sqlite: str, app: Celery, sent: list[Any], tmp_path: Path
) -> None:
    plan = a_plan(tmp_path, ["0901"])
    plan.run()
    execute("UPDATE scatter_batch SET state = 'queued', position = 0")
    execute("UPDATE scatter_plan SET on_batch = 't.batch'")
    plan.path.unlink()
    done = app.tasks["tests.renumber"].apply(kwargs=message(plan))
    assert isinstance(done.result, ScatterError)
    [(_, kwargs, _)] = sent
    assert kwargs["state"] == "failed"
    assert kwargs["failures"][0]["outcome"] == "failed"
    assert "does not exist" in kwargs["failures"][0]["message"]


def test_busy_batch_is_retried_later(
    sqlite: str, app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*args: Any) -> Any:
        raise runtime.RetryLater(12.5, "held by another")

    monkeypatch.setattr(tasks, "run_batch", busy)
    task = app.tasks["tests.renumber"]
    wanted: list[dict[str, Any]] = []

    def retry(**options: Any) -> Retry:
        wanted.append(options)
        return Retry("later")

    monkeypatch.setattr(type(task), "retry", staticmethod(retry), raising=False)
    task.apply(kwargs=message(a_plan(tmp_path, ["0901"])))
    assert wanted[0]["countdown"] == 12.5
    assert wanted[0]["max_retries"] is None


def test_batch_task_id_is_the_same_for_every_sender() -> None:
    assert tasks.batch_task_id("p", 7) == str(uuid.uuid5(uuid.NAMESPACE_URL, "scatter:p:7"))


def make(**attributes: Any) -> type[Migration]:
    def process(self: Migration, record: Record) -> Change:
        return None

    base: dict[str, Any] = {
        "name": "tests.made", "table": "t", "reads": ("a",), "writes": ("a",), "process": process,
    }  # fmt: skip
    return type("Made", (Migration,), {**base, **attributes})


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"name": ""}, "has no name"),
        ({"table": ""}, "neither a table nor a model"),
        ({"reads": "phone"}, "reads must be a list"),
        ({"writes": ()}, "writes is empty"),
        ({"writes": ("a", "a")}, "names a column twice"),
        ({"writes": ("id",)}, "holds the key 'id'"),
        ({"process": Migration.process}, "needs one of process"),
    ],
)
def test_mistakes_in_a_declaration(app: Celery, attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(ScatterError, match=words):
        register(make(**attributes))


def test_one_name_one_migration(app: Celery) -> None:
    class Another(Renumber):
        pass

    with pytest.raises(ScatterError, match="registered twice"):
        register(Another)


def test_model_brings_table_and_key(app: Celery) -> None:
    found = make(model=Parcel, table="")()
    assert (found.table, found.key) == ("parcel", "id")
