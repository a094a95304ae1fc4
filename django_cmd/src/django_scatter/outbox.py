# SPDX-License-Identifier: Apache-2.0
"""Callbacks on their way: rows of scatter_outbox, written with the change of state that they tell of.

Sent right after the commit by whoever changed the state. What dies in between leaves a row that any later sender takes
when it is old enough; fixed task ids make a second sending harmless. celeryc does the same (celeryc/db/outbox.c).
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import Celery, signature
from django.db import Error

if TYPE_CHECKING:
    from django_scatter.control import Control

logger = logging.getLogger("django_scatter")

MAX_FAILURES = 100
MAX_ATTEMPTS = 20
ABANDONED_S = 30.0  # a row that nobody marked for so long is anybody's
AT_ONCE = 100

# state -> what is told, and the column with the signature
TOLD = {
    "planned": [("planned", "on_planned")],
    "paused": [("paused", "on_paused")],
    "failed": [("failed", "on_failed"), ("finished", "on_finish")],
    "finished": [("finished", "on_finish")],
}


# ---- writing, inside the transaction that changes the state ----


def put_batch(
    control: Control, plan: str, batch: int, state: str, failure: Mapping[str, Any] | None
) -> None:
    """on_batch of a batch that is done, or failed for the reason given."""
    found = control.rows(
        f"SELECT p.on_batch, p.migration, {control.AGE}, b.worker FROM scatter_plan p "
        "JOIN scatter_batch b ON b.plan = p.plan "
        "WHERE p.plan = %s AND b.batch = %s AND p.on_batch IS NOT NULL",
        (plan, batch),
    )
    if not found:
        return
    on_batch, migration, age, worker = found[0]
    failures = control.failures(plan, batch, MAX_FAILURES)
    if failure is not None:
        failures.insert(0, {"batch": batch, "key": None, "outcome": "failed", **failure})
    kwargs = {
        "plan": plan,
        "batch": batch,
        "migration": migration,
        "state": state,
        "counts": control.batch_counts(plan, batch),
        "duration": float(age or 0),
        "worker": worker,
        "failures": failures,
    }
    put(control, plan, batch, "batch", "on_batch", str(on_batch), kwargs)


def put_plan(control: Control, plan: str, state: str, who: str) -> None:
    """What is told when a plan comes into a state: on_finish of every end but a cancelled one."""
    told = TOLD.get(state, [])
    if not told:
        return
    columns = ", ".join(f"p.{column}" for _event, column in told)
    found = control.rows(
        f"SELECT p.migration, p.reason, {control.PLAN_AGE}, {columns} FROM scatter_plan p "
        "WHERE p.plan = %s",
        (plan,),
    )[0]
    for (event, column), text in zip(told, found[3:]):
        if text is None:
            continue
        kwargs = {
            "plan": plan,
            "migration": found[0],
            "state": state,
            "counts": control.plan_counts(plan),
            "duration": float(found[2] or 0),
            "worker": who or None,
        }
        if event in ("paused", "failed"):
            kwargs["reason"] = found[1]
        kwargs["failures"] = control.failures(plan, None, MAX_FAILURES)
        put(control, plan, None, event, column, str(text), kwargs)


def put(
    control: Control, plan: str, batch: int | None, event: str, column: str, text: str,
    kwargs: Mapping[str, Any],
) -> None:  # fmt: skip
    before = control.rows(
        "SELECT count(*) FROM scatter_outbox WHERE plan = %s AND event = %s AND coalesce(batch, 0) = %s",
        (plan, event, batch or 0),
    )[0][0]
    control.execute(
        "INSERT INTO scatter_outbox (plan, batch, event, signature, kwargs, task_id) "
        "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (task_id) DO NOTHING",
        (plan, batch, event, text, json.dumps(kwargs),
         callback_task_id(plan, batch, column, int(before) + 1)),
    )  # fmt: skip


def callback_task_id(plan: str, batch: int | None, kind: str, n: int = 1) -> str:
    """The same for every sender, in any language; from the second pause or end on with its number."""
    name = f"scatter:{plan}:" + (f"{batch}:" if batch is not None else "") + kind
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name if n == 1 else f"{name}:{n}"))


# ---- what re-drives have resolved (celeryc/db/child.c) ----

DONE_NOW = (
    "UPDATE scatter_outcome AS o SET resolved_by = o.driven_by "
    "WHERE (o.driven_by = %s OR o.plan = %s) AND o.driven_by IS NOT NULL AND o.resolved_by IS NULL "
    "AND EXISTS (SELECT 1 FROM scatter_batch b WHERE b.plan = o.driven_by AND b.batch = o.driven_batch "
    "AND o.driven_position < b.position) "
    "AND NOT EXISTS (SELECT 1 FROM scatter_outcome c WHERE c.plan = o.driven_by "
    "AND c.batch = o.driven_batch AND c.position = o.driven_position)"
)
DONE_LATER = (
    "UPDATE scatter_outcome AS o SET resolved_by = c.resolved_by FROM scatter_outcome AS c "
    "WHERE o.driven_by IS NOT NULL AND o.resolved_by IS NULL AND c.plan = o.driven_by "
    "AND c.batch = o.driven_batch AND c.position = o.driven_position AND c.resolved_by IS NOT NULL"
)


def resolve(control: Control, plan: str) -> None:
    control.execute(  # its report, and its parent's, tell something else now
        "UPDATE scatter_plan SET report_sha256 = NULL WHERE plan = %s "
        "OR plan = (SELECT c.parent FROM scatter_plan c WHERE c.plan = %s)",
        (plan, plan),
    )
    control.execute(DONE_NOW, (plan, plan))
    while control.execute(DONE_LATER):
        pass


# ---- sending ----


@dataclass
class Waiting:
    id: int
    plan: str
    event: str
    signature: str
    kwargs: dict[str, Any]
    task_id: str


def claim(control: Control, plan: str, age_s: float = ABANDONED_S) -> list[Waiting]:
    """Callbacks that are to be sent now: fresh ones of the plan, and those that nobody marked for a while."""
    with control.transaction():
        found = control.rows(
            "SELECT o.id, o.plan, o.event, o.signature, o.kwargs, o.task_id FROM scatter_outbox o "
            "WHERE o.sent_at IS NULL AND o.attempts < %s "
            f"AND ((o.plan = %s AND o.tried_at IS NULL) OR {control.OUTBOX_AGE} >= %s) "
            f"ORDER BY o.id LIMIT %s {control.SKIP_O}",
            (MAX_ATTEMPTS, plan, age_s, AT_ONCE),
        )
        for row in found:
            control.execute(
                f"UPDATE scatter_outbox SET tried_at = {control.NOW}, attempts = attempts + 1 "
                "WHERE id = %s",
                (row[0],),
            )
    return [
        Waiting(int(r[0]), str(r[1]), str(r[2]), str(r[3]), json.loads(r[4]), str(r[5]))
        for r in found
    ]


def mark(control: Control, row: Waiting, error: str | None) -> None:
    sent = f"sent_at = {control.NOW}, " if error is None else ""
    with control.transaction():
        control.execute(
            f"UPDATE scatter_outbox SET {sent}error = %s WHERE id = %s", (error, row.id)
        )


def send_again(control: Control, plan: str, batch: int) -> None:
    """A delivery that comes again: what was sent for its batch, and for the end of its plan, may have been lost."""
    with control.transaction():
        control.execute(
            "UPDATE scatter_outbox SET sent_at = NULL, tried_at = NULL WHERE plan = %s "
            "AND (batch = %s OR (batch IS NULL AND event IN ('failed', 'finished')))",
            (plan, batch),
        )


def send_due(app: Celery, control: Control, plan: str, again_for: int | None = None) -> int:
    """Sends what is due; how many went. Nothing here makes a batch fail: what could not be sent waits for a sweep."""
    sent = 0
    try:
        if again_for is not None:
            send_again(control, plan, again_for)
        for row in claim(control, plan):
            error = send(app, row)
            mark(control, row, error)
            sent += error is None
    except Error as e:
        logger.warning("the outbox of plan %s was not looked at: %s", plan, e)
    return sent


def send(app: Celery, row: Waiting) -> str | None:
    try:
        if row.signature.lstrip().startswith("{"):
            merged = merge(json.loads(row.signature), row.kwargs)
            signature(merged, app=app).apply_async(task_id=row.task_id)
        else:
            app.send_task(row.signature, kwargs=row.kwargs, task_id=row.task_id)
    except Exception as e:  # noqa: BLE001  a wrong signature, a broker that is away: told, and tried again
        logger.warning("callback %s of plan %s was not sent: %s", row.event, row.plan, e)
        return str(e)[:1000] or type(e).__name__
    return None


def merge(sig: Any, kwargs: Mapping[str, Any]) -> Any:
    """The signature with our keyword arguments in the task, or tasks, that it begins with: the first of a chain, the
    members of a group, the header of a chord. An immutable one gets none, as in Celery."""
    if not isinstance(sig, dict) or sig.get("immutable"):
        return sig
    own = sig.get("kwargs") or {}
    task = sig.get("task")
    if task in ("celery.map", "celery.starmap", "celery.chunks"):
        return sig
    if task == "celery.chain":
        tasks = list(own.get("tasks") or [])
        own = {**own, "tasks": [merge(tasks[0], kwargs), *tasks[1:]] if tasks else tasks}
    elif task == "celery.group":
        own = {**own, "tasks": [merge(t, kwargs) for t in own.get("tasks") or []]}
    elif task == "celery.chord":
        header = own.get("header")
        if isinstance(header, list):
            own = {**own, "header": [merge(t, kwargs) for t in header]}
        else:
            own = {**own, "header": merge(header, kwargs)}
    else:
        own = {**own, **kwargs}
    return {**sig, "kwargs": own}
