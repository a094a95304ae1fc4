# SPDX-License-Identifier: Apache-2.0
"""manage.py scatter_plan: freeze the records of a query into batches and enqueue one task per batch."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from django_scatter import conf, planner, preflight, report, rows
from django_scatter.errors import ScatterError
from django_scatter.migration import find_migration, pk_columns
from django_scatter.plancommand import add_callbacks
from django_scatter.preflight_own import OwnRehearsal
from django_scatter.progress import Progress
from django_scatter.status import read_status
from django_scatter.watch import watch


class Command(BaseCommand):
    help = "Plan a data migration: rows -> batch files -> one Celery task per batch."

    def add_arguments(self, parser: ArgumentParser) -> None:
        source = parser.add_mutually_exclusive_group(required=True)
        source.add_argument(
            "--query", help="SQL that gives the key and the columns to read, in key order"
        )
        source.add_argument(
            "--queryset", metavar="app.module:callable", help="a function that returns a queryset"
        )
        source.add_argument(
            "--enqueue", metavar="PLAN", help="send the messages of a plan that was made before"
        )
        parser.add_argument("--migration", help="name of a registered migration")
        parser.add_argument("--batch-size", type=int, help="records per batch (10,000)")
        parser.add_argument(
            "--upload-parallel", type=int, metavar="N", help="batches written at a time (8)"
        )
        parser.add_argument("--queue", help="the workers' queue")
        parser.add_argument(
            "--param", action="append", default=[], metavar="K=V", help="parameter of the migration"
        )
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="alias in DATABASES")
        parser.add_argument("--table", help="table to change, when not the migration's own")
        parser.add_argument("--key", help="its unique key column, or several as a,b")
        parser.add_argument("--columns", help="comma-separated columns to read and guard")
        add_callbacks(parser)
        parser.add_argument(
            "--retry-on", metavar="LIST", help="SQLSTATE classes and exception names to retry on"
        )
        for name, (metavar, text) in planner.RUN_OPTIONS.items():
            parser.add_argument(f"--{name}", metavar=metavar, help=text.replace("%", "%%"))
        parser.add_argument(
            "--window",
            action="append",
            default=[],
            metavar="'DAYS HH:MM-HH:MM ZONE'",
            help="when the plan may run, as 'Mon-Fri 01:00-05:00 Asia/Ho_Chi_Minh'; may be given again",
        )
        parser.add_argument(
            "--plan", help="id of the plan; one that exists is finished, not remade"
        )
        parser.add_argument("--dry-run", action="store_true", help="count and check, make nothing")
        parser.add_argument("--watch", action="store_true", help="follow the plan to its end")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.plan(options)
        except ScatterError as e:
            raise CommandError(str(e)) from e

    def plan(self, options: dict[str, Any]) -> None:
        database = options["database"]
        conf.database_url(
            database
        )  # an unknown alias or kind of database is refused before anything else
        in_transaction = connections[database].in_atomic_block
        self.refuse(options, in_transaction)
        queue = options["queue"] or conf.default_queue()
        if options["enqueue"]:
            self.enqueue(options["enqueue"], database, queue)
            return self.end(options["enqueue"], options)
        request = make_request(options, queue, enqueue=not in_transaction)
        source: Callable[[], Iterator[bytes]] | None = None
        if options["queryset"]:
            queryset = rows.load_queryset(options["queryset"])
            request.table = request.table or queryset.model._meta.db_table  # noqa: SLF001
            request.key = request.key or ",".join(pk_columns(queryset.model))
            key, columns = request.key, request.columns
            source = lambda: rows.stream(queryset.all(), key, columns)  # noqa: E731
        lines = source() if source is not None else None
        if options["dry_run"]:
            lines = self.rehearse(request, source) or lines
        phases = Phases(self)
        result = planner.create(request, lines, phases.update)
        phases.finish()
        if options["dry_run"]:
            self.stdout.write(
                f"dry run: {result.total:,} records would make {result.batches:,} batches; "
                "nothing was written"
            )
            return self.tell(result)
        self.stdout.write(
            f"plan {result.plan}: {result.total:,} records, {result.batches:,} batches"
        )
        if not in_transaction:
            self.stdout.write(f"{result.enqueued:,} messages sent to queue {queue}")
            return self.end(result.plan, options)
        transaction.on_commit(lambda: self.enqueue(result.plan, database, queue), using=database)
        self.stdout.write(f"{result.batches:,} messages go to queue {queue} on commit")
        return None

    def rehearse(
        self, request: planner.PlanRequest, source: Callable[[], Iterator[bytes]] | None
    ) -> Iterator[bytes] | None:
        """A migration that only Python knows is asked here, record by record; one that runs statements of its own for a
        sample of them."""
        migration = find_migration(request.migration)
        if migration is None or request.key is None or not preflight.can_rehearse(migration):
            return None
        if source is None:
            assert request.query is not None
            query = preflight.Query(request.database, request.query, request.key, request.columns)
            source, request.query = query.stream, None
        params = dict(p.split("=", 1) for p in request.params)
        table = request.table or migration.table
        if migration.kind == "process_row":
            own = OwnRehearsal(migration, request.database, request.key, table, params, source)
            return own.lines()
        rehearsal = preflight.Rehearsal(migration, request.database, request.key, table, params)
        return rehearsal.lines(source())

    def tell(self, result: planner.PlanResult) -> None:
        self.stdout.write(str(result.raw.get("preflight_text") or ""), ending="")
        checks = (result.raw.get("preflight") or {}).get("checks", [])
        blocks = [c["name"] for c in checks if c["level"] == "block"]
        if blocks:
            raise CommandError(f"the plan would not end well: {', '.join(blocks)}", returncode=3)

    def refuse(self, options: dict[str, Any], in_transaction: bool) -> None:
        if not options["enqueue"] and not options["migration"]:
            raise ScatterError("--migration is missing: the name of a registered migration")
        if options["batch_size"] is not None and options["batch_size"] < 1:
            raise ScatterError(f"--batch-size {options['batch_size']} is less than 1")
        if options["upload_parallel"] is not None and not 1 <= options["upload_parallel"] <= 32:
            raise ScatterError(
                f"--upload-parallel {options['upload_parallel']} is not within 1 and 32"
            )
        for param in options["param"]:
            if "=" not in param:
                raise ScatterError(f"--param {param!r} is not of the form k=v")
        if options["watch"] and in_transaction:
            raise ScatterError(
                "--watch inside a transaction would wait for ever: messages are sent on commit. "
                "Use scatter_status PLAN --watch afterwards"
            )

    def enqueue(self, plan: str, database: str, queue: str) -> None:
        phases = Phases(self)
        try:
            result = planner.enqueue(plan, database, queue, phases.update)
        except ScatterError as e:
            raise CommandError(
                f"{e}\nPlan {plan} is complete; send its messages with: "
                f"manage.py scatter_plan --enqueue {plan} --database {database} --queue {queue}"
            ) from e
        phases.finish()
        self.stdout.write(f"plan {plan}: {result.enqueued:,} messages sent to queue {queue}")

    def end(self, plan: str, options: dict[str, Any]) -> None:
        """Follows the plan when that was asked for; a plan that failed makes the command fail."""
        if not options["watch"]:
            return
        try:
            status = watch(options["database"], plan, self.stderr)
        except KeyboardInterrupt:
            raise CommandError(
                f"no longer watching; plan {plan} goes on: manage.py scatter_status {plan} --watch"
            ) from None
        self.stdout.write(report.full_text(read_status(options["database"], plan)))
        if status.state in ("failed", "cancelled") or status.batches.get("failed"):
            raise CommandError(
                f"plan {plan} {status.state}: {status.batches.get('failed', 0)} batches failed"
            )


class Phases:
    """One progress line for each phase that the planner reports."""

    def __init__(self, command: BaseCommand) -> None:
        self.out = command.stderr
        self.current: Progress | None = None
        self.phase = ""
        self.done = 0
        self.note = ""

    def update(self, found: dict[str, Any]) -> None:
        if found["phase"] != self.phase or self.current is None:
            self.finish()
            self.phase = str(found["phase"])
            self.current = Progress(self.out, self.phase, found.get("total"))
        self.done = int(found.get("records") or 0)
        self.note = f"{int(found.get('batches') or 0):,} batches"
        self.current.total = found.get("total")
        self.current.update(self.done, self.note)

    def finish(self) -> None:
        if self.current is not None:
            self.current.finish(self.done, self.note)
        self.current = None


def make_request(options: dict[str, Any], queue: str, enqueue: bool) -> planner.PlanRequest:
    """Options, completed by what a migration written in Python declares about its table."""
    request = planner.PlanRequest(
        migration=options["migration"],
        database=options["database"],
        queue=queue,
        batch_size=options["batch_size"],
        upload_parallel=options["upload_parallel"],
        query=options["query"],
        table=options["table"],
        key=options["key"],
        columns=[c.strip() for c in (options["columns"] or "").split(",") if c.strip()],
        params=options["param"],
        on_planned=options["on_planned"],
        on_batch=options["on_batch"],
        on_paused=options["on_paused"],
        on_failed=options["on_failed"],
        on_finish=options["on_finish"],
        retry_on=options["retry_on"],
        run={name: options[name] for name in (n.replace("-", "_") for n in planner.RUN_OPTIONS)},
        windows=options["window"],
        plan=options["plan"],
        enqueue=enqueue,
        dry_run=options["dry_run"],
    )
    found = find_migration(options["migration"])
    if found is not None:
        request.table = request.table or found.table
        request.key = request.key or found.key
        request.columns = request.columns or list(found.reads)
        request.external = found.kind == "process_external"
    return request
