# SPDX-License-Identifier: Apache-2.0
"""Runs one batch: fetch, claim, chunk by chunk, finish, callbacks. celeryc does the same in C, on the same tables.

A chunk is one transaction: the changed rows, the checkpoint and the outcomes together, fenced by the lease token.
Whatever interrupts a batch, it goes on at the very record where the checkpoint stands. The function knows nothing of
Celery: what must become of the message is told by what it returns or raises.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError, Error

from django_scatter import batchfile, sqlstates, store
from django_scatter.batchfile import Batch
from django_scatter.control import (
    BatchRow,
    Chunk,
    Claim,
    ClaimState,
    Control,
    Fenced,
    Outcome,
    PlanRow,
    Release,
    Row,
    Target,
    Unknown,
)
from django_scatter.errors import ScatterError
from django_scatter.migration import Migration, Record, Skip
from django_scatter.sqlstates import Kind

logger = logging.getLogger("django_scatter")

CHUNK_FIRST = 200
CHUNK_MIN = 50
CHUNK_MAX = 5000
CHUNK_S = 0.25
CHUNK_TRIES = 5
MESSAGE_CHARS = 1000
MAX_FAILURES = 100


class RetryLater(Exception):
    """The batch was given up for now: the message comes again after seconds, counted or not as a retry."""

    def __init__(self, seconds: float, reason: str) -> None:
        super().__init__(reason)
        self.seconds = seconds


class RetryOn(Exception):
    """process raised what the plan's retry_on names: the whole batch is tried again."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


@dataclass
class Request:
    """A batch's message, and what the worker knows of itself."""

    plan: str
    batch: int
    source: str
    database: str
    sha256: str | None
    params: Mapping[str, str]
    queue: str
    worker: str
    owner: str
    redelivered: bool
    retries: int = 0


@dataclass
class Ended:
    """How a delivery ended, and the callbacks that are due."""

    state: str  # done, failed, cancelled, parked
    counts: dict[str, int] = field(default_factory=dict)
    position: int = 0
    duration_s: float = 0.0
    plan_finished: bool = False
    on_batch: str | None = None
    on_finish: str | None = None
    error: ScatterError | None = None  # of a failed batch, raised after the callbacks were sent


class Pace:
    """Chunk size follows time: weighted rows over weighted seconds, aimed at CHUNK_S."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.size = CHUNK_FIRST
        self.rows = 0.0
        self.seconds = 0.0
        self.begun = 0.0

    def begin(self) -> None:
        self.begun = self.clock()

    def end(self, rows: int) -> None:
        self.rows = self.rows * 0.5 + rows
        self.seconds = self.seconds * 0.5 + max(1e-6, self.clock() - self.begun)
        self.size = int(min(CHUNK_MAX, max(CHUNK_MIN, self.rows / self.seconds * CHUNK_S)))


def run_batch(migration: Migration, request: Request, control: Control) -> Ended:
    """Raises RetryLater, or ScatterError when no row could be claimed; a batch that failed is told in Ended.error."""
    batch = load(migration, request)
    control.ensure_schema()
    claim = control.claim(
        plan_row(batch, request),
        BatchRow(batch.batch, request.source, batch.sha256, batch.count),
        request.worker,
        request.owner,
        takeover=request.redelivered,
    )
    ended = Ended(claim.state.value, on_batch=claim.on_batch, on_finish=claim.on_finish)
    if claim.state is ClaimState.BUSY:
        raise RetryLater(claim.retry_after_s, f"batch is held by {claim.owner}")
    if claim.state is ClaimState.PAUSED:
        ended.state = "parked"
        return ended
    if claim.state is ClaimState.DONE:
        # A message that comes again: whoever finished the batch may have died before its callbacks were sent.
        ended.plan_finished = claim.plan_finished
        ended.position = claim.position
        ended.counts = claim_counts(claim, batch.count)
        return ended
    if claim.state is ClaimState.CANCELLED:
        return ended
    return Run(migration, request, control, batch, claim).run(ended)


def load(migration: Migration, request: Request) -> Batch:
    try:
        data = store.fetch(request.source)
    except store.StoreUnavailable as e:
        raise RetryLater(backoff(request.retries), str(e)) from e
    batch = batchfile.parse(data, request.source, request.sha256)
    if (batch.plan, batch.batch) != (request.plan, request.batch):
        raise batchfile.BadBatch(
            f"{request.source} is batch {batch.batch} of plan {batch.plan}, "
            f"the message says batch {request.batch} of plan {request.plan}"
        )
    missing = [c for c in migration.reads if c not in batch.columns]
    if missing:
        raise batchfile.BadBatch(
            f"{request.source} holds no column {', '.join(missing)}, which {migration.name} reads"
        )
    return batch


def plan_row(batch: Batch, request: Request) -> PlanRow:
    """For a batch that was enqueued by hand: what its header and its message say about the plan."""
    return PlanRow(
        plan=batch.plan,
        migration=batch.migration,
        table=batch.table,
        key=batch.key,
        columns=json.dumps(batch.columns),
        store=request.source.rpartition("/")[0].rpartition("/")[0],
        queue=request.queue,
        database=request.database,
        params=json.dumps(dict(request.params)),
        n_batches=batch.total_batches or 1,
    )


def backoff(retries: int) -> float:
    """1 s, 2 s, 4 s ... 60 s, with jitter."""
    return min(60.0, 2.0 ** min(retries, 6)) * (0.5 + random.random() / 2)


def claim_counts(claim: Claim, records: int) -> dict[str, int]:
    known = claim.unchanged + claim.stale + claim.skipped + claim.quarantined
    return {
        "planned": records,
        "ok": claim.position - known,
        "unchanged": claim.unchanged,
        "stale": claim.stale,
        "skipped": claim.skipped,
        "quarantined": claim.quarantined,
        "remaining": records - claim.position,
    }


class Run:
    """One claim of one batch, to its end."""

    def __init__(
        self, migration: Migration, request: Request, control: Control, batch: Batch, claim: Claim
    ) -> None:
        self.migration = migration
        self.request = request
        self.control = control
        self.batch = batch
        self.token = claim.token
        self.position = claim.position
        self.claim = claim
        self.pace = Pace()
        self.tries = 0
        self.plan_state = "running"
        # The guard compares every planned column, also those that this migration does not read.
        self.target = Target(batch.table, batch.key, tuple(batch.columns), tuple(migration.writes))

    def run(self, ended: Ended) -> Ended:
        try:
            self.control.prepare(self.target)
            if not self.all_chunks():
                self.release(Release.CLEAN, None)
                ended.state = "cancelled" if self.plan_state == "cancelled" else "parked"
                return ended
            return self.finish(ended)
        except Fenced:
            raise RetryLater(1.0, "another worker took the batch over") from None
        except RetryOn as e:
            self.release(Release.RETRY, str(e))
            raise RetryLater(backoff(self.request.retries), str(e)) from e.error
        except Error as e:
            return self.database_failed(ended, e)
        except ScatterError as e:
            return self.failed(ended, e)
        except (
            BaseException
        ) as e:  # a soft time limit, a shutdown: the next delivery goes on from the checkpoint
            self.release(Release.CLEAN, f"{type(e).__name__}: {e}"[:MESSAGE_CHARS])
            raise

    def all_chunks(self) -> bool:
        """Until the last record; False when the plan was paused or cancelled on the way."""
        while self.position < self.batch.count:
            rows = self.process(
                self.position, min(self.batch.count, self.position + self.pace.size)
            )
            self.plan_state = self.apply(rows)
            if self.plan_state in ("paused", "cancelled") and self.position < self.batch.count:
                return False
        return True

    # ---- records ----

    def process(self, begin: int, end: int) -> list[Row]:
        self.pace.begin()
        return [self.process_one(position) for position in range(begin, end)]

    def process_one(self, position: int) -> Row:
        values = self.batch.record(position)
        old = [batchfile.text_of(v) for v in values]
        names = [self.batch.key, *self.batch.columns]
        record = Record(values[0], dict(zip(names, values)), self.request.params)
        try:
            change = self.migration.process(record)
            if isinstance(change, Skip):
                return Row(Outcome.SKIPPED, position, old, message=change.reason[:MESSAGE_CHARS])
            fresh = self.fresh_values(change, dict(zip(names, old)))
        except Error:
            raise  # the migration's own statement on our connection failed: that is the database's matter
        except Exception as e:  # noqa: BLE001  whatever a migration raises belongs to its record
            return self.quarantine(position, old, e)
        if not fresh:
            return Row(Outcome.UNCHANGED, position, old)
        return Row(Outcome.CHANGED, position, old, fresh)

    def fresh_values(
        self, change: Mapping[str, Any] | None, old: Mapping[str, str | None]
    ) -> dict[str, str | None]:
        """New values in text form; nothing when all are what they were."""
        fresh = {}
        for name, value in (change or {}).items():
            if name not in self.migration.writes:
                raise KeyError(f"{name} is not in writes of {self.migration.name}")
            fresh[name] = self.control.value(value)
        same = all(name in old and old[name] == value for name, value in fresh.items())
        return {} if same else fresh

    def quarantine(self, position: int, old: Sequence[str | None], error: Exception) -> Row:
        name = type(error).__name__
        if self.is_retried(name, ""):
            raise RetryOn(error)
        return Row(
            Outcome.QUARANTINED,
            position,
            old,
            error_class=name,
            message=str(error)[:MESSAGE_CHARS],
        )

    def is_retried(self, name: str, sqlstate: str) -> bool:
        """Is an exception among the plan's retry_on: names, or the beginnings of SQLSTATEs?"""
        wanted = [w.strip() for w in (self.claim.retry_on or "").split(",") if w.strip()]
        return name in wanted or any(sqlstate.startswith(w) for w in wanted if sqlstate)

    # ---- chunks ----

    def apply(self, rows: list[Row]) -> str:
        """Writes rows[0] at the checkpoint and what follows; a chunk with bad data is halved until the bad record is
        alone. The plan's state."""
        chunk = Chunk(
            self.request.plan,
            self.batch.batch,
            self.token,
            self.position,
            rows,
            self.request.worker,
        )
        try:
            state = self.control.apply(chunk)
        except Unknown:
            return self.resynchronise(rows)
        except DatabaseError as e:
            return self.failed_chunk(rows, e)
        self.position += len(rows)
        self.pace.end(len(rows))
        self.tries = 0
        return state

    def resynchronise(self, rows: list[Row]) -> str:
        """The checkpoint did not move. Either the batch is another's (Fenced), or a commit whose answer was lost has
        happened: what is stored counts."""
        stored = self.control.position(self.request.plan, self.batch.batch, self.token)
        done = stored - self.position
        self.position = stored
        if not 0 <= done <= len(rows) or done == 0:
            self.tries += 1
            if self.tries > CHUNK_TRIES:
                raise RetryLater(backoff(self.request.retries), "the checkpoint does not move")
        return "running"

    def failed_chunk(self, rows: list[Row], error: DatabaseError) -> str:
        sqlstate = sqlstates.sqlstate_of(error)
        kind, name = sqlstates.kind_of(sqlstate), sqlstates.class_of(sqlstate)
        if self.is_retried(name, sqlstate):
            raise RetryOn(error)
        if kind is Kind.RETRY and self.tries < CHUNK_TRIES:
            self.tries += 1
            time.sleep(0.02 * 2**self.tries * random.random())
            self.position = self.control.position(self.request.plan, self.batch.batch, self.token)
            return "running"
        if kind is not Kind.DATA:
            raise error
        if len(rows) == 1:
            bad = rows[0]
            bad.outcome, bad.fresh = Outcome.QUARANTINED, {}
            bad.error_class, bad.sqlstate = name, sqlstate
            bad.message = sqlstates.text_of(error)[:MESSAGE_CHARS]
            return self.apply([bad])
        middle, begin = len(rows) // 2, self.position
        state = self.apply(rows[:middle])
        if self.position != begin + middle:
            return (
                state  # the checkpoint stands elsewhere: what is left is processed again from there
            )
        return self.apply(rows[middle:])

    # ---- the end ----

    def finish(self, ended: Ended) -> Ended:
        end = self.control.finish(self.request.plan, self.batch.batch, self.token)
        ended.state = "done"
        ended.position = end.records
        ended.duration_s = end.duration_s
        ended.plan_finished = end.plan_finished
        ended.counts = {
            "planned": end.records,
            "ok": end.ok,
            "unchanged": end.unchanged,
            "stale": end.stale,
            "skipped": end.skipped,
            "quarantined": end.quarantined,
            "remaining": 0,
        }
        return ended

    def database_failed(self, ended: Ended, error: Error) -> Ended:
        """What a database error that ends the delivery means for the batch."""
        sqlstate = sqlstates.sqlstate_of(error)
        text = f"{sqlstates.class_of(sqlstate)} ({sqlstate}): {sqlstates.text_of(error)}"
        if sqlstates.kind_of(sqlstate) is Kind.RETRY:
            self.release(Release.RETRY, text)
            raise RetryLater(backoff(self.request.retries), text) from error
        return self.failed(ended, ScatterError(text))

    def failed(self, ended: Ended, error: ScatterError) -> Ended:
        """No retry mends it: the batch is failed, and with the last one its plan."""
        ended.state, ended.error = "failed", error
        ended.position = self.position
        ended.plan_finished = self.release(Release.FAILED, str(error)[:MESSAGE_CHARS])
        return ended

    def release(self, how: Release, error: str | None) -> bool:
        """Best effort: a lease that cannot be given up ends by itself."""
        try:
            return self.control.release(self.request.plan, self.batch.batch, self.token, how, error)
        except (Error, Fenced) as e:
            logger.warning(
                "lease of batch %s of %s not released: %s", self.batch.batch, self.request.plan, e
            )
            if isinstance(e, Error):
                self.control.connection.close()
            return False
