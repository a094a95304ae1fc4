# SPDX-License-Identifier: Apache-2.0
"""Runs one batch: fetch, claim, chunk by chunk, finish, callbacks. celeryc does the same in C, on the same tables.

A chunk is one transaction: the changed rows, the checkpoint and the outcomes together, fenced by the lease token.
Whatever interrupts a batch, it goes on at the very record where the checkpoint stands. The function knows nothing of
Celery: what must become of the message is told by what it returns or raises.
"""

from __future__ import annotations

import json
import logging
import mmap
import random
import time
from collections.abc import Callable, Mapping
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
from django_scatter.throttle import Standstill, Throttle

logger = logging.getLogger("django_scatter")

CHUNK_FIRST = 200
CHUNK_MIN = 50
CHUNK_MAX = 5000
CHUNK_S = 0.25
SQLITE_TURN_S = 0.06  # SQLite has one writer: shorter turns let the others in
QUICK_RETRIES = 3  # inside the task, before the message waits
MAX_ATTEMPTS = 20  # claims of one batch before a failure that could pass is final
BACKOFF_S, BACKOFF_MAX_S = 2.0, 300.0
MESSAGE_CHARS = 1000
STANDSTILL_RETRY_S = 10.0  # until a batch looks again whether the governor lets it go on


class RetryLater(Exception):
    """The batch is given up for now: its message comes again after so many seconds."""

    def __init__(self, seconds: float, reason: str, cause: Exception | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds
        self.cause = cause


@dataclass
class Failure:
    """Why a batch stopped: the exception, and what the database called it."""

    error: Exception
    error_class: str
    sqlstate: str
    text: str
    transient: bool  # may pass by itself: worth another try without being asked

    def __str__(self) -> str:
        return f"{self.error_class}{' ' if self.sqlstate else ''}{self.sqlstate}: {self.text}"


class Stopping(Exception):
    """The worker ends: the lease is given up, and the message goes back to its queue."""


# Shared with the children of a prefork pool, which are forked after this: the master's word that it ends.
_stopping = mmap.mmap(-1, 1)


def stop_soon() -> None:
    """Every batch of this worker is given back at its next chunk."""
    _stopping[0] = 1


def stopping() -> bool:
    return _stopping[0] != 0


class StuckError(store.StoreUnavailable):
    """Passes by itself, or does not: like a store that is away."""


def failure_of(error: Exception) -> Failure:
    if isinstance(error, Error):
        sqlstate = sqlstates.sqlstate_of(error)
        transient = sqlstates.kind_of(sqlstate) is Kind.RETRY
        text = sqlstates.text_of(error)[:MESSAGE_CHARS]
        return Failure(error, sqlstates.class_of(sqlstate), sqlstate, text, transient)
    transient = isinstance(error, (store.StoreUnavailable, MemoryError))
    return Failure(error, type(error).__name__, "", str(error)[:MESSAGE_CHARS], transient)


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
    found_done: bool = False  # by an earlier delivery, whose callbacks may have been lost with it
    failure: Failure | None = None  # of a failed batch: raised after the callbacks were sent
    records_per_second: float = 0.0


class Pace:
    """Chunk size follows time: weighted rows over weighted seconds."""

    def __init__(self, target_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.target_s = target_s
        self.size = CHUNK_FIRST
        self.rows = 0.0
        self.seconds = 0.0
        self.begun = 0.0

    def begin(self, target_s: float = 0.0) -> None:
        """target_s 0: the worker's own."""
        if target_s not in (0.0, self.target_s):
            self.target_s = target_s
            self.resize()
        self.begun = self.clock()

    def end(self, rows: int) -> None:
        self.rows = self.rows * 0.75 + rows
        self.seconds = self.seconds * 0.75 + max(1e-6, self.clock() - self.begun)
        self.resize()

    def is_slow(self) -> bool:
        """A function that is slow must not keep orders waiting, nor hold the batch until the lease has ended."""
        return self.clock() - self.begun > 2 * self.target_s

    def timed_out(self) -> None:
        """Chunks were too large for what else goes on in the database."""
        self.rows /= 2
        self.resize()

    def resize(self) -> None:
        if self.seconds:
            wanted = self.rows / self.seconds * self.target_s
            self.size = int(min(CHUNK_MAX, max(CHUNK_MIN, wanted)))


def run_batch(migration: Migration, request: Request, control: Control) -> Ended:
    """Raises RetryLater, or ScatterError when no row could be claimed; a batch that failed is told in Ended.failure."""
    control.ensure_schema()
    try:
        batch = load(migration, request)
        migration = migration.of_file(batch.columns)
    except ScatterError as e:
        failure = failure_of(e)
        if failure.transient:
            raise retry_for(request, failure) from e
        return without_file(migration, request, control, failure)
    row = BatchRow(batch.batch, request.source, batch.sha256, batch.count)
    return claimed(
        control.claim(
            plan_row(batch, request), row, request.worker, request.owner, request.redelivered
        ),
        migration,
        request,
        control,
        batch,
    )


def load(migration: Migration, request: Request) -> Batch:
    batch = batchfile.parse(store.fetch(request.source), request.source, request.sha256)
    if (batch.plan, batch.batch) != (request.plan, request.batch):
        raise batchfile.BadBatch(
            f"{request.source} is batch {batch.batch} of plan {batch.plan}, "
            f"the message says batch {request.batch} of plan {request.plan}"
        )
    if batch.migration != migration.name:
        raise batchfile.BadBatch(f"{request.source} is for migration {batch.migration}")
    missing = [c for c in migration.reads if c not in batch.columns]
    if missing:
        raise batchfile.BadBatch(
            f"{request.source} has no column {', '.join(missing)}, which {migration.name} reads: "
            "the query must select it"
        )
    return batch


def without_file(
    migration: Migration, request: Request, control: Control, failure: Failure
) -> Ended:
    """A batch that was planned here is failed, so that its plan can end; a message that came by itself only fails as
    a task."""
    claim = control.claim(
        PlanRow.unknown(request.plan),
        BatchRow(request.batch, None, request.sha256, 0),
        request.worker,
        request.owner,
        request.redelivered,
    )
    if claim.state is ClaimState.UNKNOWN:
        raise failure.error
    return claimed(claim, migration, request, control, None, failure)


def claimed(
    claim: Claim, migration: Migration, request: Request, control: Control, batch: Batch | None,
    failure: Failure | None = None,
) -> Ended:  # fmt: skip
    ended = Ended(
        claim.state.value,
        position=claim.position,
        counts=claim_counts(claim, batch.count if batch else claim.position),
    )
    if claim.state is ClaimState.BUSY:
        raise RetryLater(claim.retry_after_s + 0.05, f"batch is held by {claim.owner}")
    if claim.state is ClaimState.DONE:
        ended.found_done = True
        ended.plan_finished = claim.plan_finished
        return ended
    if claim.state is not ClaimState.OURS:
        return ended
    run = Run(migration, request, control, batch, claim)
    return run.run(ended) if failure is None else run.fail_or_retry(ended, failure)


def plan_row(batch: Batch, request: Request) -> PlanRow:
    """For a batch that was enqueued by hand: what its header and its message say about the plan."""
    return PlanRow(
        plan=batch.plan,
        migration=batch.migration,
        table=batch.table,
        key=batch.key,
        columns=json.dumps(batch.columns, ensure_ascii=False),
        queue=request.queue,
        database=request.database,
        params=json.dumps(dict(request.params), ensure_ascii=False),
        n_batches=batch.total_batches or 0,
        created_by=request.worker,
    )


def retry_for(request: Request, failure: Failure) -> RetryLater:
    """2 s, 4 s, 8 s ... 300 s, with jitter."""
    seconds = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(request.retries, 20)) * random.random()
    return RetryLater(seconds, str(failure), failure.error)


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
        self,
        migration: Migration,
        request: Request,
        control: Control,
        batch: Batch | None,
        claim: Claim,
    ) -> None:
        self.migration = migration
        self.request = request
        self.control = control
        self.claim = claim
        self.token = claim.token
        self.position = claim.position
        self.began = time.monotonic()
        self.pace = Pace(SQLITE_TURN_S if control.connection.vendor == "sqlite" else CHUNK_S)
        self.quick_retries = 0
        self.throttle = Throttle(
            lambda ms: control.beat(request.plan, request.batch, claim.token, ms)
        )
        if batch is not None:
            self.batch = batch
            # Where the columns that the migration reads stand in a record; others may have been planned as well.
            n_keys = len(batch.keys)
            self.places = [
                *range(n_keys),
                *(batch.columns.index(c) + n_keys for c in migration.reads),
            ]
            self.names = [*batch.keys, *migration.reads]
            self.target = Target(
                batch.table, batch.keys, tuple(migration.guards), tuple(migration.writes)
            )

    def run(self, ended: Ended) -> Ended:
        try:
            self.control.prepare(self.target)
            failure = self.all_chunks()
            if failure is not None:
                return self.fail_or_retry(ended, failure)
            if self.position < self.batch.count:
                self.release(Release.CLEAN, None)
                ended.state = "cancelled" if self.throttle.orders.state == "cancelled" else "parked"
                self.count(ended)
                return ended
            return self.finish(ended)
        except Fenced:
            raise RetryLater(
                self.control.lease_ms / 1000, "another worker has the batch now"
            ) from None
        except Stopping:
            self.release(Release.CLEAN, None)
            raise
        except Standstill:
            self.release(Release.CLEAN, None)
            raise RetryLater(STANDSTILL_RETRY_S, "the database is not to be written now") from None
        except (Error, ScatterError) as e:
            return self.fail_or_retry(ended, failure_of(e))
        except Exception:
            raise
        except BaseException:  # a shutdown: the next delivery goes on from the checkpoint
            self.release(Release.CLEAN, None)
            raise

    def all_chunks(self) -> Failure | None:
        """Until the last record, or until the plan is paused or cancelled. A failure that is to be retried stops in
        front of the record that had it; what was done before is committed."""
        while self.position < self.batch.count and self.throttle.orders.go_on:
            if stopping():
                raise Stopping
            self.pace.begin(self.throttle.orders.chunk_ms / 1000)
            rows, failure = self.process(
                self.position,
                min(self.batch.count, self.position + self.throttle.size(self.pace.size)),
            )
            if rows:
                try:
                    self.apply(rows)
                    self.pace.end(len(rows))
                except DatabaseError as e:
                    self.recover(e)
                    continue
                except Unknown:
                    self.recover(None)
                    continue
            if failure is not None and self.throttle.orders.go_on:
                return failure
            self.throttle.wait()
        self.throttle.end()
        return None

    # ---- records ----

    def process(self, begin: int, end: int) -> tuple[list[Row], Failure | None]:
        rows: list[Row] = []
        for position in range(begin, end):
            row, error = self.process_one(position)
            if error is not None and self.may_retry and self.listed(type(error), ""):
                return rows, failure_of(error)
            rows.append(row)
            if self.pace.is_slow():
                break
        return rows, None

    def process_one(self, position: int) -> tuple[Row, Exception | None]:
        found = self.batch.record(position)
        values = [found[i] for i in self.places]
        old = [batchfile.text_of(v) for v in values]
        n_keys = len(self.batch.keys)
        key = values[0] if n_keys == 1 else tuple(values[:n_keys])
        record = Record(key, dict(zip(self.names, values)), self.request.params)
        try:
            change = self.migration.process(record)
            if isinstance(change, Skip):
                row = Row(Outcome.SKIPPED, position, old, message=change.reason[:MESSAGE_CHARS])
                return row, None
            fresh = self.fresh_values(change, dict(zip(self.names, old)))
        except Error:
            raise  # the migration's own statement on our connection failed: that is the database's matter
        except Exception as e:  # noqa: BLE001  whatever a migration raises belongs to its record
            row = Row(
                Outcome.QUARANTINED,
                position,
                old,
                error_class=type(e).__name__,
                message=str(e)[:MESSAGE_CHARS],
            )
            return row, e
        if not fresh:
            return Row(Outcome.UNCHANGED, position, old), None
        return Row(Outcome.CHANGED, position, old, fresh), None

    def fresh_values(
        self, change: Mapping[str, Any] | None, old: Mapping[str, str | None]
    ) -> dict[str, str | None]:
        """New values in text form; nothing when all are what they were."""
        fresh = {}
        for name, value in (change or {}).items():
            if name not in self.migration.writes:
                raise KeyError(f"{name} is not in writes of {self.migration.name}")
            fresh[name] = self.control.value(name, value)
        same = all(name in old and old[name] == value for name, value in fresh.items())
        return {} if same else fresh

    @property
    def may_retry(self) -> bool:
        return self.claim.attempts < MAX_ATTEMPTS

    def listed(self, error: type[BaseException] | str, sqlstate: str) -> bool:
        return sqlstates.listed(self.claim.retry_on, error, sqlstate)

    # ---- chunks ----

    def apply(self, rows: list[Row]) -> None:
        """Writes rows at the checkpoint, which is where rows[0] stands. A chunk whose data is refused is halved, each
        half a transaction of its own, until the bad record is alone and is set aside."""
        chunk = Chunk(
            self.request.plan,
            self.batch.batch,
            self.token,
            self.position,
            rows,
            self.request.worker,
            len(self.batch.keys),
        )
        try:
            orders = self.control.apply(chunk)
        except DatabaseError as e:
            failure = failure_of(e)
            if sqlstates.kind_of(failure.sqlstate) is not Kind.DATA or (
                self.may_retry and self.listed(failure.error_class, failure.sqlstate)
            ):
                raise
            if len(rows) > 1:
                middle = len(rows) // 2
                self.apply(rows[:middle])
                self.apply(rows[middle:])
                return
            bad = rows[0]
            if bad.outcome is not Outcome.CHANGED:
                raise
            bad.outcome, bad.fresh = Outcome.QUARANTINED, {}
            bad.error_class, bad.sqlstate = failure.error_class, failure.sqlstate
            bad.message = failure.text
            self.apply([bad])
            return
        self.position += len(rows)
        self.quick_retries = 0
        self.throttle.told(orders, len(rows))

    def recover(self, error: DatabaseError | None) -> None:
        """After a chunk that failed or whose commit is in doubt: what is stored counts. Raises what cannot be mended
        here, Fenced when the batch is another's."""
        failure = failure_of(error) if error is not None else None
        if failure is not None and not failure.transient:
            assert error is not None
            raise error
        if failure is not None and failure.sqlstate in ("57014", "55P03"):
            self.pace.timed_out()
        while self.quick_retries < QUICK_RETRIES:
            time.sleep(0.05 * 4**self.quick_retries)
            self.quick_retries += 1
            try:
                self.position = self.control.position(
                    self.request.plan, self.batch.batch, self.token
                )
            except DatabaseError as e:
                if not failure_of(e).transient:
                    raise
                error = e
            else:
                return
        if error is not None:
            raise error
        raise StuckError("the checkpoint does not move")

    # ---- the end ----

    def finish(self, ended: Ended) -> Ended:
        end = self.control.finish(self.request.plan, self.batch.batch, self.token)
        ended.state = "done"
        ended.duration_s = end.duration_s
        ended.plan_finished = end.plan_finished
        self.count(ended)
        return ended

    def count(self, ended: Ended) -> None:
        """What the database says about the batch now."""
        found = self.control.batch_counts(self.request.plan, self.request.batch)
        ended.counts = found
        ended.position = found["planned"] - found["remaining"]
        seconds = time.monotonic() - self.began
        ended.duration_s = ended.duration_s or seconds
        ended.records_per_second = (self.position - self.claim.position) / max(seconds, 1e-6)

    def fail_or_retry(self, ended: Ended, failure: Failure) -> Ended:
        """Given back for another try, or failed for good, and with the last batch its plan."""
        if failure.transient or self.listed(failure.error_class, failure.sqlstate):
            if self.may_retry:
                self.release(Release.RETRY, failure.text)
                raise retry_for(self.request, failure) from failure.error
            failure.text = f"given up after {MAX_ATTEMPTS} attempts: {failure.text}"
        try:
            ended.plan_finished = self.control.release(
                self.request.plan, self.request.batch, self.token, Release.FAILED, str(failure),
                {
                    "error_class": failure.error_class,
                    "sqlstate": failure.sqlstate or None,
                    "message": failure.text,
                },
            )  # fmt: skip
        except Fenced:
            raise RetryLater(
                self.control.lease_ms / 1000, "another worker has the batch now"
            ) from None
        except Error as e:  # a batch that cannot be failed in the database must not be acknowledged
            self.control.connection.close()
            raise retry_for(self.request, failure) from e
        ended.state, ended.failure = "failed", failure
        self.count(ended)
        return ended

    def release(self, how: Release, error: str | None) -> None:
        """Best effort: a lease that cannot be given up ends by itself."""
        try:
            self.control.release(self.request.plan, self.request.batch, self.token, how, error)
        except Fenced:
            logger.info("batch %s of %s is another worker's", self.request.batch, self.request.plan)
        except Error as e:
            logger.warning(
                "lease of batch %s of %s not released: %s", self.request.batch, self.request.plan, e
            )
            self.control.connection.close()
