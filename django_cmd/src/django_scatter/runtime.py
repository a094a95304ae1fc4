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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError, Error

from django_scatter import batchfile, bisect, limits, sqlstates, store
from django_scatter.batchfile import Batch
from django_scatter.chunk import Chunk, Outcome, Row, Target, told
from django_scatter.claims import BatchRow, Claim, ClaimState, PlanRow, claim_batch
from django_scatter.control import Control, Fenced, Unknown
from django_scatter.ends import Release, finish_batch, release_batch
from django_scatter.errors import ScatterError
from django_scatter.failures import Failure, Stopped, failure_of
from django_scatter.heartbeat import Heartbeat
from django_scatter.migration import Change, Migration, Postpone, Record, Skip
from django_scatter.orders import Orders
from django_scatter.pace import Pace
from django_scatter.paths import path_of
from django_scatter.pieces import Refused
from django_scatter.policy import Policy, breaker_of
from django_scatter.sqlstates import Kind
from django_scatter.throttle import Standstill, Throttle

logger = logging.getLogger("django_scatter")

CHUNK_S = 0.25
SQLITE_TURN_S = 0.06  # SQLite has one writer: shorter turns let the others in
QUICK_RETRIES = 3  # inside the task, before the message waits
PIECE_FIRST = 500
PIECES_REFUSED = 20  # then the transaction ends
BACKOFF_S, BACKOFF_MAX_S = 2.0, 300.0
STANDSTILL_RETRY_S = 10.0  # until a batch looks again whether the governor lets it go on


class RetryLater(Exception):
    """The batch is given up for now: its message comes again after so many seconds."""

    def __init__(self, seconds: float, reason: str, cause: Exception | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds
        self.cause = cause


class Stopping(Exception):
    """The worker ends: the lease is given up, and the message goes back to its queue."""


# Shared with the children of a prefork pool, which are forked after this: the master's word that it ends.
_stopping = mmap.mmap(-1, 1)


def stop_soon() -> None:
    """Every batch of this worker is given back at its next chunk."""
    _stopping[0] = 1


def stopping() -> bool:
    return _stopping[0] != 0


class NoPieces(Exception):
    """The chunk was not written, and cannot be in pieces."""


class Ending(Exception):
    """The row of a chunk that ends the work in front of it."""

    def __init__(self, at: int, stopped: Stopped) -> None:
        super().__init__(str(stopped))
        self.at = at
        self.stopped = stopped


class StuckError(store.StoreUnavailable):
    """Passes by itself, or does not: like a store that is away."""


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


def run_batch(migration: Migration, request: Request, control: Control) -> Ended:
    """Raises RetryLater, or ScatterError when no row could be claimed; a batch that failed is told in Ended.failure."""
    control.ensure_schema()
    try:
        batch = load(migration, request)
        migration = migration.of_batch(batch)
    except ScatterError as e:
        failure = failure_of(e)
        if failure.transient:
            raise retry_for(request, failure) from e
        return without_file(migration, request, control, failure)
    row = BatchRow(batch.batch, request.source, batch.sha256, batch.count)
    return claimed(
        claim_batch(
            control,
            plan_row(batch, request),
            row,
            request.worker,
            request.owner,
            request.redelivered,
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
    claim = claim_batch(
        control,
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
    if claim.state is ClaimState.PAUSED:
        ended.state = "parked"
        breaker_of(request.plan).forget()
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
    """2 s, 4 s, 8 s ... 300 s, with jitter; the first may be the migration's own."""
    first = failure.retry.backoff if failure.retry else BACKOFF_S
    seconds = min(BACKOFF_MAX_S, first * 2.0 ** min(request.retries, 20)) * random.random()
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
        self.pace.in_pieces = control.connection.vendor == "postgresql"
        self.quick_retries = 0
        self.throttle = Throttle(self.tell)
        self.beat = Heartbeat(
            control, request.plan, request.batch, claim.token,
            batch is not None and migration.kind == "process_row", stopping,
        )  # fmt: skip
        self.policy = Policy(claim.on_error, claim.retry_on, migration.retry_on)
        self.breaker = breaker_of(request.plan)
        # Records were set aside, and the plan's limits not asked since; whoever did it may have died.
        self.unchecked = claim.quarantined > 0
        self.error: DatabaseError | None = None  # of the last chunk that was refused
        self.refused = 0  # records of the chunk
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
            self.path = path_of(self)

    @property
    def orders(self) -> Orders:
        return self.throttle.orders

    def run(self, ended: Ended) -> Ended:
        try:
            self.control.prepare(self.target)
            with self.beat:
                failure = self.all_chunks()
            if failure is not None:
                return self.fail_or_retry(ended, failure)
            if self.position < self.batch.count:
                self.release(Release.CLEAN, None)
                ended.state = "cancelled" if self.orders.state == "cancelled" else "parked"
                self.breaker.forget()
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

    def tell(self, throttled_ms: int) -> Orders:
        """Between two chunks: this worker lives."""
        orders = self.control.beat(self.request.plan, self.request.batch, self.token, throttled_ms)
        self.beat.renewed()
        return orders

    def all_chunks(self) -> Failure | None:
        """Until the last record, or until the plan is paused or cancelled. A failure that ends the work stops in front of
        the record that had it; what was done before is committed."""
        while self.position < self.batch.count and self.orders.go_on:
            if stopping():
                raise Stopping
            self.pace.begin(self.orders.chunk_ms / 1000)
            failure = None
            try:
                failure = self.chunk(self.throttle.size(self.pace.size))
            except Stopped as e:
                failure = e.failure
            except DatabaseError as e:
                self.recover(e)
                continue
            except Unknown:
                self.recover(None)
                continue
            finally:
                self.check_limits()
            heard = self.beat.heard()
            if heard is not None:
                self.throttle.told(heard, 0)
            if failure is not None and failure.action != "postpone" and self.orders.go_on:
                return failure
            self.throttle.wait()
        self.throttle.end()
        return None

    def chunk(self, n: int) -> Failure | None:
        """At most n records from the position on. Why the work ends behind those that are done."""
        self.beat.told = False
        done, failure = self.path.chunk(min(self.batch.count - self.position, n))
        if done:
            self.pace.end(done)
        return failure

    # ---- records ----

    def record(self, row: Row) -> Record:
        n_keys = len(self.batch.keys)
        return Record(
            row.values[0] if n_keys == 1 else tuple(row.values[:n_keys]),
            dict(zip(self.names, row.values)),
            self.request.params,
            f"{self.request.plan}/{self.request.batch}/{row.position}",
            self.beat,
        )

    def blank(self, position: int) -> Row:
        """A row of which only the old values are known."""
        found = self.batch.record(position)
        values = [found[i] for i in self.places]
        old = [batchfile.text_of(v) for v in values]
        return Row(Outcome.CHANGED, position, old, values=values)

    def fill(self, row: Row, change: Change | Exception) -> None:
        """What a function answered for a record; raises what is wrong with it."""
        if isinstance(change, Exception):
            raise change
        if isinstance(change, Skip):
            row.outcome, row.message = Outcome.SKIPPED, told(change.reason)
            return
        row.fresh = self.fresh_values(change, dict(zip(self.names, row.old)))
        row.outcome = Outcome.CHANGED if row.fresh else Outcome.UNCHANGED

    def has_enough(self, times: float) -> bool:
        """The chunk ends behind the record that was just done."""
        return self.pace.spent(times) or bool(self.beat.order())

    def postponed(self, error: Exception) -> Failure | None:
        """Without an order to obey the batch would come back to the record at once, for ever."""
        if not isinstance(error, Postpone) or not self.beat.told:
            return None
        return Failure(error, "Postpone", "", told(error), transient=True, action="postpone")

    def failed(self, row: Row, error: Exception) -> Failure | None:
        """The record's function raised. None: it is set aside, go on; else the work ends in front of it."""
        later = self.postponed(error)
        if later is not None:
            return later
        row.outcome, row.fresh = Outcome.QUARANTINED, {}
        row.error_class, row.message = type(error).__name__, told(error)
        failure = failure_of(error)
        failure.action = self.settle(row, type(error), "")
        failure.retry = self.policy.rule(type(error), "")
        return None if failure.action in ("quarantine", "skip") else failure

    def fresh_values(
        self, change: Mapping[str, Any] | None, old: Mapping[str, str | None]
    ) -> dict[str, str | None]:
        """New values in text form; nothing when all are what they were."""
        fresh = {}
        for name, value in (change or {}).items():
            if name not in self.migration.writes:
                raise KeyError(f"{name} is not in writes of {self.migration.name}")
            fresh[name] = self.control.value(name, value)
            (fresh[name] or "").encode()  # half of a surrogate pair is no text
        same = all(name in old and old[name] == value for name, value in fresh.items())
        return {} if same else fresh

    def answer(self, position: int, error: type[BaseException] | str, sqlstate: str) -> str:
        """A record that has been retried often enough is set aside."""
        answer = self.policy.ask(error, sqlstate)
        if answer.action == "retry" and self.tries(position) + 1 >= answer.max_attempts:
            return "quarantine"
        return answer.action

    def tries(self, position: int) -> int:
        """How often the record at the position has stopped the batch before."""
        return self.claim.failed_times if position == self.claim.failed_at else 0

    def settle(self, row: Row, error: type[BaseException] | str, sqlstate: str) -> str:
        """What the plan wants for a record that failed; its row is marked when that is its own matter."""
        action = self.answer(row.position, error, sqlstate)
        row.attempts = self.tries(row.position) + 1
        if action in ("quarantine", "skip"):
            row.outcome = Outcome.SKIPPED if action == "skip" else Outcome.QUARANTINED
            row.fresh = {}
        return action

    # ---- chunks ----

    def apply(self, rows: Sequence[Row]) -> int:
        """Writes rows at the checkpoint, which is where rows[0] stands, without those that are refused alone. How many of
        them are done: one at least.

        As long as none is refused the chunk is one statement. Where some were it goes in pieces, in one transaction as
        well; where there are no pieces it is cut, each part a transaction of its own."""
        self.refused = 0
        before = self.position
        try:
            self.apply_rows(rows)
        finally:
            if self.position > before:
                self.pace.learn_refusals(self.position - before, self.refused)
        return self.position - before

    def apply_rows(self, rows: Sequence[Row]) -> None:
        size = self.pace.piece_size()
        if self.pace.in_pieces and any(r.outcome is Outcome.CHANGED for r in rows):
            if size >= len(rows):
                if self.write(rows) is None:
                    return
                size = min(size, PIECE_FIRST)
            try:
                self.apply_pieces(rows, size)
                return
            except NoPieces:
                self.pace.in_pieces = False
                for row in rows:
                    if row.outcome in (Outcome.DONE, Outcome.STALE):
                        row.outcome = Outcome.CHANGED
        bisect.write_all(self, rows)

    def apply_pieces(self, rows: Sequence[Row], size: int) -> None:
        """One transaction: fence, pieces, checkpoint behind what was written. A record that ends the work takes it back, and
        what stands in front of the record, where nothing is refused any more, is written by itself."""
        try:
            self.in_one_transaction(rows, size)
        except Ending as e:
            before = self.position
            if e.at > 0:
                self.in_one_transaction(rows[: e.at], size)
            if self.position == before + e.at:
                raise e.stopped from None

    def in_one_transaction(self, rows: Sequence[Row], size: int) -> None:
        try:
            with self.control.transaction():
                self.control.fence(self.new_chunk(rows))
                chunk = self.new_chunk(rows[: self.write_pieces(rows, size)])
                orders = self.control.settle(chunk)
        except Refused:
            raise  # and no record's own matter, by what the plan says of it
        except DatabaseError as e:
            if sqlstates.kind_of(sqlstates.sqlstate_of(e)) is Kind.RETRY:
                raise
            raise NoPieces from e
        self.throttle.told(orders, len(chunk.rows))
        self.written(chunk)

    def write_pieces(self, rows: Sequence[Row], size: int) -> int:
        """How many of the rows are written or marked."""
        changed = [i for i, row in enumerate(rows) if row.outcome is Outcome.CHANGED]
        if not changed:
            return len(rows)
        found = self.control.write_pieces([rows[i] for i in changed], size, PIECES_REFUSED)
        for i, error in found.refused:
            self.error = error
            if not self.is_refusal(error):
                raise error
            try:
                self.single(rows[changed[i]])
            except Stopped as e:
                raise Ending(changed[i], e) from None
        for i, at in enumerate(changed[: found.at]):
            if rows[at].outcome is Outcome.CHANGED:
                rows[at].outcome = Outcome.STALE if i in found.stale else Outcome.DONE
        return changed[found.at] if found.at < len(changed) else len(rows)

    def new_chunk(self, rows: Sequence[Row]) -> Chunk:
        return Chunk(
            self.request.plan,
            self.batch.batch,
            self.token,
            self.position,
            rows,
            self.request.worker,
            len(self.batch.keys),
        )

    def write(self, rows: Sequence[Row]) -> str | None:
        chunk = self.new_chunk(rows)
        try:
            self.throttle.told(self.control.apply(chunk), len(rows))
        except DatabaseError as e:
            if not self.is_refusal(e):
                raise
            self.error = e
            return sqlstates.text_of(e)
        self.written(chunk)
        return None

    def written(self, chunk: Chunk) -> None:
        self.position += len(chunk.rows)
        self.quick_retries = 0
        self.beat.renewed()
        self.count_rows(chunk)

    def is_refusal(self, error: DatabaseError) -> bool:
        """Is it a record's fault, by what the plan says of it? A statement that failed for another reason fails whole."""
        sqlstate = sqlstates.sqlstate_of(error)
        action = self.policy.ask(sqlstates.class_of(sqlstate), sqlstate).action
        if action == "retry":  # a refused record is retried, not the others with it
            return sqlstates.kind_of(sqlstate) is Kind.DATA
        return action in ("quarantine", "skip")

    def single(self, row: Row) -> None:
        """The record was refused alone: it is marked and goes with the next statement, or ends the work."""
        assert self.error is not None
        if row.outcome is not Outcome.CHANGED:
            raise self.error
        failure = failure_of(self.error)
        failure.action = self.settle(row, failure.error_class, failure.sqlstate)
        if failure.action not in ("quarantine", "skip"):
            raise Stopped(failure)
        row.error_class, row.sqlstate = failure.error_class, failure.sqlstate
        row.message = failure.text
        self.refused += 1

    def count_rows(self, chunk: Chunk) -> None:
        if not chunk.count(Outcome.QUARANTINED):
            self.breaker.add_good(len(chunk.rows))
            return
        self.unchecked = True
        for row in chunk.rows:
            self.breaker.add(row.outcome is Outcome.QUARANTINED)

    def check_limits(self) -> None:
        """May the plan go on? Asked only after records were set aside; when the database does not answer, again after the
        next chunk."""
        if not self.unchecked:
            return
        plan, breaker, rate = self.request.plan, self.breaker, self.claim.max_failure_rate
        try:
            if breaker.trips(rate):
                reason = (
                    f"breaker: {breaker.n_bad} of the last {breaker.tried} records were set aside, "
                    f"more than {rate * 100:g} %"
                )
                paused = True
                with self.control.transaction():
                    self.control.set_plan_state(
                        plan, "paused", self.request.worker, reason, ("running", "draining")
                    )
                breaker.forget()
            else:
                paused = limits.check_limits(
                    self.control, plan, self.batch.batch, self.request.worker
                )
        except DatabaseError as e:
            logger.warning("the limits of %s were not checked: %s", plan, e)
            return
        self.unchecked = False
        if paused:
            self.orders.state = "paused"

    def recover(self, error: DatabaseError | None) -> None:
        """After a chunk that failed or whose commit is in doubt: what is stored counts. Raises what cannot be mended
        here, Fenced when the batch is another's."""
        failure = failure_of(error) if error is not None else None
        if error is not None and failure is not None:
            answer = self.policy.ask(failure.error_class, failure.sqlstate)
            if not failure.transient or answer.action != "retry":
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
        end = finish_batch(self.control, self.request.plan, self.batch.batch, self.token)
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
        answer = self.policy.ask(failure.error_class, failure.sqlstate)
        action = failure.action or ("retry" if failure.transient else answer.action)
        if answer.action.startswith("fail-") and not failure.action:
            action = answer.action
        if action == "retry":
            tries = self.tries(self.position) + 1
            if tries < answer.max_attempts:
                self.release(Release.RETRY, failure.text)
                raise retry_for(self.request, failure) from failure.error
            failure.text = f"given up after {tries} attempts: {failure.text}"
        how = Release.FAIL_PLAN if action == "fail-plan" else Release.FAILED
        try:
            ended.plan_finished = release_batch(self.control,
                self.request.plan, self.request.batch, self.token, how, str(failure),
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
            release_batch(
                self.control, self.request.plan, self.request.batch, self.token, how, error
            )
        except Fenced:
            logger.info("batch %s of %s is another worker's", self.request.batch, self.request.plan)
        except Error as e:
            logger.warning(
                "lease of batch %s of %s not released: %s", self.request.batch, self.request.plan, e
            )
            self.control.connection.close()
