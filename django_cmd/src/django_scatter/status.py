# SPDX-License-Identifier: Apache-2.0
"""What the control tables say about plans, read through Django's own connection."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from django.db import connections
from django.db.utils import DatabaseError

from django_scatter.errors import ScatterError

FINAL = ("finished", "failed", "cancelled")

PLAN_COLUMNS = """plan migration table_name key_column state store queue database total n_batches
created_by created_at started_at finished_at kind parent reason verification report_sha256""".split()

COUNTS = """SELECT plan, count(*), coalesce(sum(records), 0), coalesce(sum(position), 0),
  coalesce(sum(unchanged), 0), coalesce(sum(stale), 0), coalesce(sum(skipped), 0),
  coalesce(sum(quarantined), 0)
FROM scatter_batch {where} GROUP BY plan"""


@dataclass
class Counts:
    planned: int = 0
    ok: int = 0
    unchanged: int = 0
    stale: int = 0
    skipped: int = 0
    quarantined: int = 0
    remaining: int = 0

    @property
    def done(self) -> int:
        return self.planned - self.remaining

    @property
    def holds(self) -> bool:
        """Every planned record has exactly one place."""
        parts = (
            self.ok,
            self.unchanged,
            self.stale,
            self.skipped,
            self.quarantined,
            self.remaining,
        )
        return self.planned == sum(parts) and min(parts) >= 0


@dataclass
class Failure:
    batch: int
    position: int
    key: str
    outcome: str
    error_class: str | None
    sqlstate: str | None
    message: str | None


@dataclass
class FailureGroup:
    """Records that are not plainly ok for one reason."""

    count: int
    outcome: str
    error_class: str | None
    sqlstate: str | None
    message: str | None
    example: str  # a key


@dataclass
class BatchError:
    batch: int
    state: str
    attempts: int
    error: str


@dataclass
class Status:
    plan: str
    migration: str
    table: str
    key: str
    state: str
    store: str
    queue: str
    database: str
    total: int
    n_batches: int
    created_by: str
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    counts: Counts
    kind: str = "migrate"
    parent: str | None = None
    reason: str | None = None
    verification: dict[str, Any] | None = None
    report_sha256: str | None = None
    n_resolved: int = 0  # of the records that were set aside
    callbacks_pending: int = 0
    children: list[tuple[str, str, str]] = field(default_factory=list)  # plan, kind, state
    batches: dict[str, int] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    failure_groups: list[FailureGroup] = field(default_factory=list)
    n_failures: int = 0
    batch_errors: list[BatchError] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Nothing more will happen by itself."""
        open_states = set(self.batches) - {"done", "failed", "cancelled"}
        return self.state in FINAL or (bool(self.batches) and not open_states)

    @property
    def seconds(self) -> float | None:
        """From the first claim to the end (or now)."""
        if self.started_at is None:
            return None
        end = parse_time(self.finished_at) if self.finished_at else now()
        return max(0.0, (end - parse_time(self.started_at)).total_seconds())

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "invariant_holds": self.counts.holds, "seconds": self.seconds}


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def parse_time(text: str) -> datetime.datetime:
    found = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return found if found.tzinfo else found.replace(tzinfo=datetime.timezone.utc)


def time_text(value: Any) -> str | None:
    """PostgreSQL gives datetimes, SQLite ISO 8601 text."""
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).isoformat(timespec="milliseconds")
    return None if value is None else str(value)


def query(alias: str, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)
        return [tuple(row) for row in cursor.fetchall()]


def require_tables(alias: str) -> None:
    connection = connections[alias]
    try:
        names = connection.introspection.table_names()
    except DatabaseError as e:
        raise ScatterError(f"database {alias!r} cannot be read: {e}") from e
    if "scatter_plan" not in names:
        raise ScatterError(
            f"database {alias!r} has no plans: the control tables are made by the first "
            f"scatter_plan or by manage.py migrate django_scatter --database {alias}"
        )


def list_plans(alias: str, limit: int = 20) -> list[Status]:
    """The newest plans, without their details."""
    require_tables(alias)
    return read_plans(alias, "ORDER BY created_at DESC, plan LIMIT %s", (limit,))


def read_status(alias: str, plan: str, max_failures: int = 20) -> Status:
    require_tables(alias)
    found = read_plans(alias, "WHERE plan = %s", (plan,))
    if not found:
        raise ScatterError(f"database {alias!r} has no plan {plan!r}; scatter_status lists them")
    status = found[0]
    status.batches = {
        str(s): int(n)
        for s, n in query(
            alias,
            "SELECT state, count(*) FROM scatter_batch WHERE plan = %s GROUP BY state",
            (plan,),
        )
    }
    status.workers = {
        str(w): int(n)
        for w, n in query(
            alias,
            "SELECT worker, sum(records) FROM scatter_share WHERE plan = %s "
            "GROUP BY worker ORDER BY 2 DESC, 1",
            (plan,),
        )
    }
    status.n_failures = int(
        query(alias, "SELECT count(*) FROM scatter_outcome WHERE plan = %s", (plan,))[0][0]
    )
    status.n_resolved = int(
        query(
            alias,
            "SELECT count(*) FROM scatter_outcome WHERE plan = %s AND resolved_by IS NOT NULL",
            (plan,),
        )[0][0]
    )
    status.callbacks_pending = int(
        query(
            alias,
            "SELECT count(*) FROM scatter_outbox WHERE plan = %s AND sent_at IS NULL",
            (plan,),
        )[0][0]
    )
    status.children = [
        (str(p), str(k), str(s))
        for p, k, s in query(
            alias,
            "SELECT plan, kind, state FROM scatter_plan WHERE parent = %s ORDER BY created_at, plan",
            (plan,),
        )
    ]
    status.failures = [
        Failure(int(r[0]), int(r[1]), str(r[2]), str(r[3]), r[4], r[5], r[6])
        for r in query(
            alias,
            "SELECT batch, position, record_key, outcome, error_class, sqlstate, message "
            "FROM scatter_outcome WHERE plan = %s ORDER BY outcome, batch, position LIMIT %s",
            (plan, max_failures),
        )
    ]
    status.failure_groups = [
        FailureGroup(int(r[0]), *r[1:])
        for r in query(
            alias,
            "SELECT count(*), outcome, error_class, sqlstate, message, min(record_key) "
            "FROM scatter_outcome WHERE plan = %s GROUP BY outcome, error_class, sqlstate, message "
            "ORDER BY 1 DESC, 2, 3, 5 LIMIT %s",
            (plan, max_failures),
        )
    ]
    status.batch_errors = [
        BatchError(int(b), str(s), int(a), str(e))
        for b, s, a, e in query(
            alias,
            "SELECT batch, state, attempts, error FROM scatter_batch "
            "WHERE plan = %s AND error IS NOT NULL AND state <> 'done' ORDER BY batch LIMIT %s",
            (plan, max_failures),
        )
    ]
    return status


def read_plans(alias: str, tail: str, params: tuple[Any, ...]) -> list[Status]:
    names = ", ".join(PLAN_COLUMNS)
    plans = query(alias, f"SELECT {names} FROM scatter_plan {tail}", params)
    counted: dict[str, Counts] = {}
    if plans:
        marks = ", ".join(["%s"] * len(plans))
        rows = query(
            alias, COUNTS.format(where=f"WHERE plan IN ({marks})"), tuple(p[0] for p in plans)
        )
        counted = {str(r[0]): counts_of(r) for r in rows}
    return [status_of(dict(zip(PLAN_COLUMNS, p)), counted.get(str(p[0]))) for p in plans]


def counts_of(row: tuple[Any, ...]) -> Counts:
    _plan, _batches, records, position, unchanged, stale, skipped, quarantined = row
    return Counts(
        planned=int(records),
        ok=int(position) - int(unchanged) - int(stale) - int(skipped) - int(quarantined),
        unchanged=int(unchanged),
        stale=int(stale),
        skipped=int(skipped),
        quarantined=int(quarantined),
        remaining=int(records) - int(position),
    )


def status_of(row: dict[str, Any], counts: Counts | None) -> Status:
    total = int(row["total"])
    return Status(
        plan=row["plan"],
        migration=row["migration"],
        table=row["table_name"],
        key=row["key_column"],
        state=row["state"],
        store=row["store"],
        queue=row["queue"],
        database=row["database"],
        total=total,
        n_batches=int(row["n_batches"]),
        created_by=row["created_by"],
        created_at=time_text(row["created_at"]),
        started_at=time_text(row["started_at"]),
        finished_at=time_text(row["finished_at"]),
        kind=row["kind"],
        parent=row["parent"],
        reason=row["reason"],
        verification=json.loads(row["verification"]) if row["verification"] else None,
        report_sha256=row["report_sha256"],
        counts=counts or Counts(planned=total, remaining=total),
    )
