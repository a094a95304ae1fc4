# SPDX-License-Identifier: Apache-2.0
"""manage.py scatter_plan with a stub in place of the planner."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import StubPlanner
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections, transaction
from migrations import Renumber, execute
from scatter_test_app.models import Parcel

from django_scatter import migration, status

QUERY = "SELECT id, phone FROM parcel"


def scatter_plan(*arguments: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("scatter_plan", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def arguments_of(call: dict[str, Any]) -> dict[str, list[str]]:
    """Options of a call by name; the command under "" """
    found: dict[str, list[str]] = {"": [call["argv"][0]]}
    name = ""
    for word in call["argv"][1:]:
        if word.startswith("-"):
            name = word
            found.setdefault(name, [])
        else:
            found[name].append(word)
    return found


def test_query_outside_of_a_transaction(sqlite: str, planner: StubPlanner, tmp_path: Path) -> None:
    out, _ = scatter_plan(
        "--migration", "phones.x", "--query", QUERY, "--batch-size", "500", "--upload-parallel", "3", "--queue", "q",
        "--param", "a=1", "--param", "b=x=y", "--on-batch", "t.batch", "--on-finish", "t.end",
        "--retry-on", "40,OSError",
    )  # fmt: skip
    [call] = planner.calls
    found = arguments_of(call)
    assert found[""] == ["create"]
    wanted = {
        "--migration": ["phones.x"], "--query": [QUERY], "--batch-size": ["500"], "--upload-parallel": ["3"], "--queue": ["q"],
        "--param": ["a=1", "b=x=y"], "--on-batch": ["t.batch"], "--on-finish": ["t.end"],
        "--retry-on": ["40,OSError"], "--database": ["default"], "--store": [f"file://{tmp_path}/store"],
        "--format": ["json"], "--progress": ["json"],
    }  # fmt: skip
    assert {k: found[k] for k in wanted} == wanted
    assert "--no-enqueue" not in found
    assert "--stdin" not in found
    assert "plan p1: 10 records, 2 batches" in out
    assert "2 messages sent to queue q" in out


def test_credentials_are_in_the_environment_only(
    sqlite: str, planner: StubPlanner, settings_of: dict[str, Any]
) -> None:
    settings_of["BROKER"] = "redis://:hushhush@broker/0"
    settings_of["DATABASE_URLS"] = {"default": "postgresql://u:psst@db/x"}
    scatter_plan("--migration", "phones.x", "--query", QUERY)
    [call] = planner.calls
    assert not any(secret in word for word in call["argv"] for secret in ("hushhush", "psst"))
    assert call["env"]["CELERY_BROKER_URL"] == "redis://:hushhush@broker/0"
    assert call["env"]["SCATTER_DATABASE_DEFAULT"] == "postgresql://u:psst@db/x"


def test_plugins_and_default_queue(
    sqlite: str, planner: StubPlanner, settings_of: dict[str, Any]
) -> None:
    settings_of |= {"PLUGINS": ["/a.so", Path("/b.so")], "QUEUE": "bulk"}
    scatter_plan("--migration", "phones.x", "--query", QUERY)
    found = arguments_of(planner.calls[0])
    assert found["-A"] == ["/a.so", "/b.so"]
    assert found["--queue"] == ["bulk"]


def test_windows_are_passed_on(sqlite: str, planner: StubPlanner) -> None:
    windows = ["Mon-Fri 01:00-05:00 UTC", "Sun 00:00-24:00 UTC"]
    more = [word for window in windows for word in ("--window", window)]
    scatter_plan("--migration", "phones.x", "--query", QUERY, *more)
    assert arguments_of(planner.calls[0])["--window"] == windows


def test_inside_a_transaction_messages_go_on_commit(sqlite: str, planner: StubPlanner) -> None:
    planner.says({"plan": "p7", "total": 10, "batches": 2, "enqueued": 0})
    with transaction.atomic():
        out, _ = scatter_plan("--migration", "phones.x", "--query", QUERY, "--queue", "q")
        [call] = planner.calls
        assert "--no-enqueue" in call["argv"]
        assert "on commit" in out
        planner.says({"plan": "p7", "total": 10, "batches": 2, "enqueued": 2})
    _, enqueue = planner.calls
    assert arguments_of(enqueue)[""] == ["enqueue"]
    assert arguments_of(enqueue)["--plan"] == ["p7"]
    assert arguments_of(enqueue)["--queue"] == ["q"]


def test_rolled_back_transaction_sends_nothing(sqlite: str, planner: StubPlanner) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        scatter_plan("--migration", "phones.x", "--query", QUERY)
        raise ZeroDivisionError
    assert len(planner.calls) == 1


def test_failure_on_commit_names_the_way_on(sqlite: str, planner: StubPlanner) -> None:
    with pytest.raises(CommandError, match=r"scatter_plan --enqueue p1 .*--queue celery"):
        with transaction.atomic():
            scatter_plan("--migration", "phones.x", "--query", QUERY)
            planner.says("", "scatter-plan: broker is away\n", 1)


def test_enqueue_of_an_older_plan(sqlite: str, planner: StubPlanner) -> None:
    out, _ = scatter_plan("--enqueue", "p1")
    assert arguments_of(planner.calls[0])[""] == ["enqueue"]
    assert "2 messages sent" in out


def test_queryset_is_piped(database: str, planner: StubPlanner) -> None:
    Parcel.objects.bulk_create(Parcel(id=i, phone=f"0{i}") for i in (2, 1))
    scatter_plan(
        "--migration", "phones.x", "--queryset", "queries:all_parcels", "--columns", "phone"
    )
    [call] = planner.calls
    found = arguments_of(call)
    assert "--stdin" in found
    assert "--query" not in found
    assert (found["--table"], found["--key"], found["--columns"]) == (["parcel"], ["id"], ["phone"])
    assert [json.loads(line) for line in call["stdin"].splitlines()] == [
        {"columns": ["id", "phone"], "types": None, "trailer": True},
        [1, "01"],
        [2, "02"],
        {"rows": 2},
    ]


def test_queryset_sees_rows_of_the_open_transaction(database: str, planner: StubPlanner) -> None:
    with transaction.atomic():
        Parcel.objects.create(id=5, phone="new")
        scatter_plan("--migration", "phones.x", "--queryset", "queries:all_parcels")
    assert '"new"' in planner.calls[0]["stdin"]


def test_python_migration_brings_table_and_columns(
    sqlite: str, planner: StubPlanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(migration._registered, "tests.renumber", Renumber())
    scatter_plan("--migration", "tests.renumber", "--query", QUERY)
    found = arguments_of(planner.calls[0])
    assert (found["--table"], found["--key"], found["--columns"]) == (["parcel"], ["id"], ["phone"])


def test_planner_that_stops_reading_is_asked_why(sqlite: str, planner: StubPlanner) -> None:
    Parcel.objects.bulk_create(Parcel(id=i, phone="0" * 20) for i in range(1, 5001))
    planner.says("", "scatter-plan: the store is full\n", 1, read=False)
    with pytest.raises(CommandError, match="the store is full"):
        scatter_plan("--migration", "phones.x", "--queryset", "queries:all_parcels")


def test_rows_that_fail_kill_the_planner(
    sqlite: str, planner: StubPlanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner must not take what it has for all there is."""
    Parcel.objects.create(id=1, phone="x", weight=1)

    def broken(value: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("django_scatter.rows.as_text", broken)
    with pytest.raises(ZeroDivisionError):
        scatter_plan("--migration", "phones.x", "--queryset", "queries:all_parcels")
    assert planner.calls == []


def test_dry_run(sqlite: str, planner: StubPlanner) -> None:
    planner.says({"plan": "", "total": 12345, "batches": 3, "enqueued": 0})
    out, _ = scatter_plan("--migration", "phones.x", "--query", QUERY, "--dry-run")
    assert "--dry-run" in planner.calls[0]["argv"]
    assert "12,345 records would make 3 batches; nothing was written" in out


def test_progress_lines_become_text(sqlite: str, planner: StubPlanner) -> None:
    progress = [
        {"phase": "planning", "records": 5, "batches": 1, "total": None},
        {"phase": "planning", "records": 10, "batches": 2, "total": None},
        {"phase": "enqueueing", "records": 10, "batches": 2, "total": 10},
    ]
    planner.says(
        {"plan": "p1", "total": 10, "batches": 2, "enqueued": 2},
        "".join(json.dumps(p) + "\n" for p in progress),
    )
    _, err = scatter_plan("--migration", "phones.x", "--query", QUERY)
    assert "planning: 10 records, 2 batches" in err
    assert "enqueueing: 10 records, 2 batches" in err


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("", "printed '' instead of"),
        ("[1]", "instead of a JSON object"),
        ({"a": 1}, "is no result"),
    ],
)
def test_nonsense_from_the_planner(
    sqlite: str, planner: StubPlanner, printed: Any, words: str
) -> None:
    planner.says(printed)
    with pytest.raises(CommandError, match=words):
        scatter_plan("--migration", "phones.x", "--query", QUERY)


def test_planners_own_words_are_shown(sqlite: str, planner: StubPlanner) -> None:
    planner.says("", 'scatter-plan: the query has no column "id"\n', 1)
    with pytest.raises(
        CommandError, match='create failed: scatter-plan: the query has no column "id"'
    ):
        scatter_plan("--migration", "phones.x", "--query", QUERY)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--query", QUERY], "--migration is missing"),
        (["--migration", "x", "--query", QUERY, "--batch-size", "0"], "less than 1"),
        (["--migration", "x", "--query", QUERY, "--upload-parallel", "33"], "not within 1 and 32"),
        (["--migration", "x", "--query", QUERY, "--param", "novalue"], "not of the form k=v"),
        (["--migration", "x", "--query", QUERY, "--database", "other"], "there are default"),
        (["--migration", "x"], "--query --queryset --enqueue"),
        (["--migration", "x", "--query", QUERY, "--queryset", "a:b"], "not allowed with"),
        (["--migration", "x", "--queryset", "nothing"], "not of the form app.module:callable"),
    ],
)
def test_mistakes_are_named(
    sqlite: str, planner: StubPlanner, arguments: list[str], words: str
) -> None:
    with pytest.raises(CommandError, match=words):
        scatter_plan(*arguments)
    assert planner.calls == []


def test_watch_inside_a_transaction_is_refused(sqlite: str, planner: StubPlanner) -> None:
    with transaction.atomic(), pytest.raises(CommandError, match="wait for ever"):
        scatter_plan("--migration", "x", "--query", QUERY, "--watch")
    assert planner.calls == []


def test_planner_that_is_not_there(sqlite: str, settings_of: dict[str, Any]) -> None:
    settings_of["BINARY"] = "/nonexistent/scatter-plan"
    with pytest.raises(CommandError, match="not a program that can be run"):
        scatter_plan("--migration", "x", "--query", QUERY)


def a_plan(state: str = "running") -> None:
    execute(
        "INSERT INTO scatter_plan (plan, migration, table_name, key_column, state, store, queue, "
        "database, total, n_batches, started_at) VALUES ('p1', 'm', 'parcel', 'id', %s, 's', 'q', "
        "'default', 10, 1, created_at)".replace("created_at)", "CURRENT_TIMESTAMP)"),
        state,
    )
    execute(
        "INSERT INTO scatter_batch (plan, batch, source, sha256, records, state, position) "
        "VALUES ('p1', 1, 's', 'h', 10, 'running', 4)"
    )


def test_watch_follows_to_the_end(
    database: str, planner: StubPlanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_plan()
    read_really = status.read_status
    looks = []

    def read(alias: str, plan: str, max_failures: int = 20) -> status.Status:
        looks.append(plan)
        if len(looks) == 3:
            execute("UPDATE scatter_batch SET state = 'done', position = 10, unchanged = 3")
            execute("UPDATE scatter_plan SET state = 'finished'")
        return read_really(alias, plan, max_failures)

    monkeypatch.setattr("django_scatter.watch.read_status", read)
    monkeypatch.setattr("django_scatter.watch.POLL_S", 0.0)
    out, err = scatter_plan("--migration", "x", "--query", QUERY, "--watch")
    assert "running:  40% 4/10" in err
    assert "running: 10 records" in err
    assert "10 planned = 7 ok + 3 unchanged" in out
    assert "every record is accounted for" in out


def test_watch_of_a_failed_plan_fails(database: str, planner: StubPlanner) -> None:
    a_plan("failed")
    execute("UPDATE scatter_batch SET state = 'failed', error = 'UndefinedColumn 42703: no colour'")
    with pytest.raises(CommandError, match="plan p1 failed: 1 batches failed"):
        scatter_plan("--migration", "x", "--query", QUERY, "--watch")


def test_connection_is_left_as_it_was(sqlite: str, planner: StubPlanner) -> None:
    scatter_plan("--migration", "x", "--query", QUERY)
    assert not connections["default"].in_atomic_block
