# SPDX-License-Identifier: Apache-2.0
"""Moves of a plan and what workers are told, on both kinds of database. The same as tests/db/test_plan_state.c."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from django.db import connection
from migrations import Plan, Renumber, execute, one
from scatter_test_app.models import Parcel

from django_scatter import runtime
from django_scatter.claims import BatchRow, Claim, ClaimState, claim_batch
from django_scatter.control import Control, open_control
from django_scatter.ends import Release, release_batch
from django_scatter.errors import ScatterError
from django_scatter.orders import Orders

NAME = "plan-1"


@pytest.fixture
def held(database: str, tmp_path: Path) -> tuple[Plan, Control, Claim]:
    """A plan of one batch of ten records that is being worked on."""
    Parcel.objects.bulk_create(Parcel(id=i, phone=f"09{i:02}") for i in range(1, 11))
    plan = Plan(tmp_path, [[i, f"09{i:02}"] for i in range(1, 11)], Renumber())
    control = open_control(connection, 60_000)
    control.ensure_schema()
    batch = runtime.load(plan.migration, plan.request())
    row = BatchRow(1, plan.request().source, plan.sha256, batch.count)
    return (
        plan,
        control,
        claim_batch(
            control, runtime.plan_row(batch, plan.request()), row, "dead@test", "9@dead@test", False
        ),
    )


def move(control: Control, to: str, *sources: str) -> bool:
    with control.transaction():
        return control.set_plan_state(NAME, to, "tester", "because", sources)


def orders(control: Control) -> Orders:
    return control.orders(NAME)


def test_moves_are_written_with_their_event(held: tuple[Plan, Control, Claim]) -> None:
    control = held[1]
    assert move(control, "paused")
    assert one("SELECT state, reason FROM scatter_plan") == ("paused", "because")
    assert one("SELECT who, detail FROM scatter_event WHERE event = 'paused'") == (
        "tester",
        "because",
    )
    assert not move(control, "paused")
    assert not move(control, "running", "queued")
    assert one("SELECT count(*) FROM scatter_event WHERE event = 'paused'") == 1
    assert move(control, "running")
    assert move(control, "cancelled")
    assert one("SELECT finished_at IS NOT NULL FROM scatter_plan") == 1
    with pytest.raises(ScatterError, match="plan plan-1 is cancelled: it cannot become running"):
        move(control, "running")
    with pytest.raises(ScatterError, match="no plan other"), control.transaction():
        control.set_plan_state("other", "paused", "")


def test_rates_are_shared(held: tuple[Plan, Control, Claim]) -> None:
    control = held[1]
    assert orders(control) == Orders()
    execute("UPDATE scatter_plan SET rate = 90, chunk_ms = 70")
    assert (orders(control).rate, orders(control).chunk_ms) == (90, 70)
    execute(
        "INSERT INTO scatter_batch (plan, batch, source, sha256, records, state, lease_until) "
        "SELECT plan, 2, '', '', 1, 'running', lease_until FROM scatter_batch"
    )
    assert orders(control).rate == 45
    execute("UPDATE scatter_governor SET rate = 60")
    assert orders(control).rate == 30


def test_silent_governor_slows_and_stops(held: tuple[Plan, Control, Claim]) -> None:
    control = held[1]
    ago = "strftime('%%s', 'now') - 8"
    if connection.vendor == "postgresql":
        ago = "now() - interval '8 s'"
    execute(f"UPDATE scatter_governor SET beat_at = {ago}")
    assert orders(control).rate == math.inf
    execute("""UPDATE scatter_governor SET limits = '{"max_lag_s": 2}'""")
    assert orders(control).rate == 100
    execute("UPDATE scatter_governor SET beat_at = NULL")
    assert orders(control).rate == 0
    execute("UPDATE scatter_governor SET stopped = (1 = 1)")
    assert orders(control).stopped


def test_draining_plan_finishes_what_is_open(held: tuple[Plan, Control, Claim]) -> None:
    plan, control, claim = held
    assert move(control, "draining")
    assert plan.run(redelivered=True).state == "done"
    assert one("SELECT state FROM scatter_plan") == "finished"
    assert claim.state is ClaimState.OURS


def test_drained_plan_is_paused(held: tuple[Plan, Control, Claim]) -> None:
    plan, control, claim = held
    assert move(control, "draining")
    release_batch(control, NAME, 1, claim.token, Release.CLEAN, None)
    assert one("SELECT state, reason FROM scatter_plan") == ("paused", "drained")
    assert one("SELECT state FROM scatter_batch") == "parked"
    assert plan.run().state == "parked"
