# SPDX-License-Identifier: Apache-2.0
"""scatter_control and scatter_sweep: what they ask scatter-plan for, what they print, and how they fail."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from conftest import StubPlanner
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from migrations import execute, one
from test_end_to_end import BUILD

from django_scatter import keeper
from django_scatter import planner as planner_module
from django_scatter.management.commands import scatter_control, scatter_sweep
from django_scatter.operator import VERBS

ANSWER = {"plan": "p1", "state": "paused", "changed": True, "sent": 0}


def run(command: str, *words: str) -> str:
    out = io.StringIO()
    call_command(command, *words, stdout=out, stderr=io.StringIO())
    return out.getvalue()


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner_module, "created_by", lambda: "somebody")


# ---- what is asked for ----


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_are_scatter_plans_own(sqlite: str, planner: StubPlanner, verb: str) -> None:
    planner.says(ANSWER)
    words = ["rate=5000", "workers=none"] if verb == "set" else []
    run("scatter_control", verb, "p1", *words)
    assert planner.calls[0]["argv"] == [
        verb, "p1", *words, "--database", "default", "--format", "json", "--created-by", "somebody",
    ]  # fmt: skip


def test_reason_and_urls_are_passed_on(sqlite: str, planner: StubPlanner) -> None:
    planner.says(ANSWER)
    run("scatter_control", "pause", "p1", "--reason", "the disk, once more")
    call = planner.calls[0]
    assert call["argv"][-2:] == ["--reason", "the disk, once more"]
    assert call["env"]["SCATTER_DATABASE_DEFAULT"].startswith("sqlite:///")
    assert call["env"]["CELERY_BROKER_URL"] == "redis://broker:6379/0"
    assert not [word for word in call["argv"] if "://" in word], "URLs may hold passwords"


@pytest.mark.parametrize(
    "words", [[], ["show"], ["stop"], ["start"], ["set", "max_lag_s=2", "floor=50"]]
)
def test_governor(sqlite: str, planner: StubPlanner, words: list[str]) -> None:
    planner.says({"stopped": False, "rate": None, "limits": {"max_lag_s": 2}})
    out = run("scatter_control", "governor", *words)
    argv = ["governor", *words, "--database", "default", "--format", "json"]
    assert planner.calls[0]["argv"] == argv
    assert "stopped    False" in out


@pytest.mark.parametrize(("given", "asked"), [([], []), (["--after", "5"], ["--after", "5"])])
def test_sweep(sqlite: str, planner: StubPlanner, given: list[str], asked: list[str]) -> None:
    planner.says({"looked_at": 7, "sent": 2})
    assert run("scatter_sweep", *given) == "2 messages were sent again (7 batches were looked at)\n"
    argv = ["sweep", "--database", "default", "--format", "json", *asked]
    assert planner.calls[0]["argv"] == argv


@pytest.mark.parametrize("of_app", [False, True], ids=["settings", "app"])
def test_prefix_of_the_brokers_keys(
    sqlite: str, planner: StubPlanner, monkeypatch: pytest.MonkeyPatch, of_app: bool
) -> None:
    """Messages without it would lie where no worker looks."""
    options = {"global_keyprefix": "shop:"}
    if of_app:
        monkeypatch.setitem(current_app.conf, "broker_transport_options", options)
    else:
        monkeypatch.setattr(settings, "CELERY_BROKER_TRANSPORT_OPTIONS", options, raising=False)
    planner.says({"looked_at": 0, "sent": 0, "plan": "p1", "total": 1, "batches": 1, "enqueued": 1})
    run("scatter_sweep")
    run("scatter_control", "resume", "p1")
    run("scatter_plan", "--migration", "m", "--query", "SELECT 1")
    run("scatter_plan", "--enqueue", "p1")
    run("scatter_redrive", "p1")
    assert [call["argv"][-2:] for call in planner.calls] == [["--global-keyprefix", "shop:"]] * 5
    assert keeper.keeper_arguments("default", 30)[-2:] == ["--global-keyprefix", "shop:"]
    run("scatter_control", "set", "p1", "rate=1")
    run("scatter_control", "governor")
    assert not [c for c in planner.calls[5:] if "--global-keyprefix" in c["argv"]], (
        "no option there"
    )


# ---- what is printed ----


def test_answer_as_text_and_as_json(sqlite: str, planner: StubPlanner) -> None:
    planner.says(ANSWER)
    assert run("scatter_control", "pause", "p1").splitlines() == [
        "plan       p1", "state      paused", "changed    True", "sent       0",
    ]  # fmt: skip
    assert json.loads(run("scatter_control", "pause", "p1", "--format", "json")) == ANSWER


@pytest.mark.parametrize("command", [scatter_control.Command, scatter_sweep.Command])
def test_help(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    parser = command().create_parser("manage.py", command.__module__.rpartition(".")[2])
    text = parser.format_help()
    wanted = (
        [*VERBS, "governor", "--reason", "--format", "max_lag_s"]
        if command is scatter_control.Command
        else ["--after"]
    )
    assert not [word for word in [*wanted, "--database"] if word not in text]


# ---- failures ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scatter_control"], "the following arguments are required: verb"),
        (["scatter_control", "stop", "p1"], "invalid choice: 'stop'"),
        (["scatter_control", "pause"], r"which plan\? scatter_status lists them"),
        (["scatter_control", "pause", "p1", "p2"], "pause takes one plan, not p1 p2"),
        (["scatter_control", "pause", "p1", "--database", "other"], "other"),
        (["scatter_control", "pause", "p1", "--format", "xml"], "invalid choice: 'xml'"),
        (["scatter_sweep", "--database", "other"], "other"),
        (["scatter_sweep", "--after", "soon"], "invalid int value: 'soon'"),
        (["scatter_sweep", "p1"], "unrecognized arguments: p1"),
    ],
)
def test_mistakes_are_named(
    sqlite: str, planner: StubPlanner, words: list[str], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        run(*words)
    assert planner.calls == []


@pytest.mark.parametrize("words", [["scatter_control", "cancel", "p1"], ["scatter_sweep"]])
def test_planners_own_words_are_shown(
    sqlite: str, planner: StubPlanner, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    planner.says("", stderr="scatter-plan: no broker: give -b\n", status=1)
    with pytest.raises(CommandError, match="failed: scatter-plan: no broker: give -b") as raised:
        run(*words)
    assert raised.value.returncode == 1


def test_planner_that_prints_nonsense(sqlite: str, planner: StubPlanner) -> None:
    planner.says("no JSON")
    with pytest.raises(CommandError, match="no JSON"):
        run("scatter_sweep")


def test_planner_that_is_not_there(
    sqlite: str, settings_of: dict[str, Any], tmp_path: Path
) -> None:
    settings_of["BINARY"] = str(tmp_path / "nowhere")
    for words in (["scatter_control", "pause", "p1"], ["scatter_sweep"]):
        with pytest.raises(CommandError, match="not a program that can be run"):
            run(*words)


# ---- the real program ----


@pytest.fixture
def real(settings_of: dict[str, Any]) -> None:
    settings_of["BINARY"] = BUILD / "scatter-plan"
    settings_of["BROKER"] = "redis://127.0.0.1:1/0"


def make_plan(state: str) -> None:
    execute(
        "INSERT INTO scatter_plan (plan, migration, table_name, key_column, columns, store, queue, "
        "database, params, total, n_batches, created_by, state) "
        "VALUES ('p1', 'm', 'parcel', 'id', '[]', '', 'q', 'default', '{}', 1, 1, '', %s)",
        state,
    )


def test_a_plan_is_paused(database: str, real: None) -> None:
    make_plan("running")
    assert "paused" in run("scatter_control", "pause", "p1", "--reason", "the disk")
    assert one("SELECT state, reason FROM scatter_plan") == ("paused", "the disk")
    assert one("SELECT who FROM scatter_event WHERE event = 'paused'") == "somebody"
    assert "False" in run("scatter_control", "pause", "p1"), "it is paused already"
    run("scatter_control", "set", "p1", "rate=250", "workers=3")
    assert one("SELECT rate, max_workers FROM scatter_plan") == (250, 3)
    run("scatter_control", "cancel", "p1")
    with pytest.raises(CommandError, match="plan p1 is cancelled"):
        run("scatter_control", "pause", "p1")


def test_what_cannot_be_done_is_said_in_one_line(database: str, real: None) -> None:
    for words, message in (
        (["scatter_control", "pause", "p9"], "there is no plan p9"),
        (["scatter_control", "set", "p9", "rate=1"], "there is no plan p9"),
        (["scatter_control", "set", "p9", "speed=1"], "rate, chunk_ms and workers"),
        (["scatter_control", "governor", "faster"], "show, set, stop and start"),
        (["scatter_control", "resume", "p9"], "127.0.0.1:1"),
        (["scatter_sweep"], "127.0.0.1:1"),
        (["scatter_sweep", "--after", "0"], "not a positive number"),
    ):
        with pytest.raises(CommandError, match=message) as raised:
            run(*words)
        assert "\n" not in str(raised.value), words


def test_database_that_cannot_be_reached(real: None, settings_of: dict[str, Any]) -> None:
    settings_of["DATABASE_URLS"] = {"default": "postgresql://somebody:secret@127.0.0.1:1/none"}
    for words in (
        ["scatter_control", "pause", "p1"],
        ["scatter_control", "governor", "stop"],
        ["scatter_sweep"],
    ):
        with pytest.raises(CommandError, match=r"127\.0\.0\.1") as raised:
            run(*words)
        assert "secret" not in str(raised.value)
