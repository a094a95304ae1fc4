# SPDX-License-Identifier: Apache-2.0
"""Write a data migration in Python: a class with process(record).

    from django_scatter.migration import Migration, Skip, register

    @register
    class Renumber(Migration):
        name = "phones.vn_renumber"
        table = "parcel"            # or: model = Parcel
        reads = ["phone"]           # planned, and guarded against changes since
        writes = ["phone"]

        def process(self, record):
            return {"phone": renumbered(record["phone"])}

process gives the new values, None (unchanged), or Skip("reason"); whatever it raises sets the record aside with that
exception. It may be called again for the same record after a crash and must depend on nothing but the record and the
plan's parameters: its effect still happens once.

Instead of process a class may have process_batch, process_row or process_external (below; docs/MIGRATIONS.md says more).

The registered class is a Celery task of the same name. A worker that has it and a celeryc that has a migration of that
name in C can share a queue, and finish each other's batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, Union

from django.db import models

from django_scatter.batchfile import key_columns
from django_scatter.errors import ScatterError

if TYPE_CHECKING:
    from django_scatter.batchfile import Batch
    from django_scatter.heartbeat import Heartbeat


class Skip:
    """The record is left as it is and listed with the reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Postpone(Exception):
    """Raised by a function that takes long, or in the list of process_batch, when record.stop_wanted has said why: the
    record is left for later, nothing is written or counted for it, and it comes again when the batch goes on."""


class Record(Mapping[str, Any]):
    """The planned values of one row by column name, the key included (a tuple when it has several columns). Integers and booleans are Python's own,
    everything else is the database's text form, NULL is None."""

    __slots__ = ("_beat", "_values", "idempotency_key", "key", "params")

    def __init__(
        self,
        key: Any,
        values: dict[str, Any],
        params: Mapping[str, str],
        idempotency_key: str = "",
        beat: Heartbeat | None = None,
    ) -> None:
        self.key = key
        self.params = params
        self.idempotency_key = idempotency_key  # the same whenever this record of the plan is tried
        self._values = values
        self._beat = beat

    @property
    def stop_wanted(self) -> str:
        """For a function that takes long: "" or why it should come to an end: "paused", "cancelled", "failed" (the plan
        is), "window" (it is over), "stopped" (all plans of the database are), "worker" (it ends), or "lost": another worker
        has the batch, and whatever is done from now on is done twice. Cheap; what it knows is a second old. A function
        that never asks is obeyed behind its record."""
        return self._beat.stop_wanted() if self._beat else ""

    def __getitem__(self, column: str) -> Any:
        return self._values[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Record({self._values!r})"


Change = Union[Mapping[str, Any], Skip, None]


@dataclass(frozen=True)
class Retry:
    """How often a failing record is tried before it is set aside, and the seconds before the second try, doubled for
    each one after it."""

    times: int = 5
    backoff: float = 2.0


# The functions of which a migration has one, and what each is for.
KINDS = {
    "process": "new values for one record",
    "process_batch": "new values for many records at once",
    "process_row": "statements of its own for one record",
    "process_external": "something outside of the database for one record",
}


INVERSES = {"process_row": "undo_row", "process_external": "undo_external"}
UNDO = ".undo"  # behind the name of a migration: its inverse, which is a task as well


def pk_columns(model: type[models.Model]) -> list[str]:
    """The columns of a model's primary key, several for a CompositePrimaryKey."""
    options: Any = model._meta  # noqa: SLF001  Django's documented Meta API
    return [str(f.column) for f in getattr(options, "pk_fields", [options.pk])]


class Migration:
    """Base class; a subclass declares what it reads and writes and how one record changes."""

    name: str = ""
    model: type[models.Model] | None = None
    table: str = ""
    key: str = ""
    reads: Sequence[str] = ()
    writes: Sequence[str] = ()
    body: str = ""  # of a file of SQL

    retry_on: Mapping[type[BaseException] | str, Retry] = {}  # exceptions or SQLSTATEs

    def process(self, record: Record) -> Change:
        """The new values of a record, None, or Skip."""
        raise NotImplementedError

    def process_batch(self, records: Sequence[Record]) -> Sequence[Change | Exception]:
        """The same for many records, in their order; an exception in the list sets its record aside. When the call
        itself raises, halves are tried until the record is alone."""
        raise NotImplementedError

    def process_row(self, record: Record, cursor: Any) -> Skip | None:
        """Changes the database by itself: with the cursor, or with models on the same connection. The record's row is
        locked and holds its planned values; nothing of a record that raises or is skipped stays."""
        raise NotImplementedError

    def process_external(self, record: Record) -> Skip | None:
        """Does something outside of the database, at least once: a crash may repeat what came after the last
        checkpoint, with the same record.idempotency_key."""
        raise NotImplementedError

    def check(self, record: Record, now: Record) -> str | None:  # noqa: ARG002
        """Whether a record that was done is as it should be, for scatter_verify: the planned values, and what stands in the
        columns that are read or written now. None, or what is wrong; raising says so too."""
        return None

    def undo_row(self, record: Record, cursor: Any) -> Skip | None:
        """Takes back what process_row did, for scatter_undo. The record has the old values; its row is locked, whatever it
        holds now: look before you write, and Skip what somebody else has changed."""
        raise NotImplementedError

    def undo_external(self, record: Record) -> Skip | None:
        """Takes back what process_external did."""
        raise NotImplementedError

    @property
    def has_inverse(self) -> bool:
        mine, name = type(self), INVERSES.get(self.kind, "")
        return bool(name) and getattr(mine, name) is not getattr(Migration, name)

    @property
    def kind(self) -> str:
        """Which of the four functions it has."""
        mine = type(self)
        found = [name for name in KINDS if getattr(mine, name) is not getattr(Migration, name)]
        if len(found) != 1:
            have = f"has {' and '.join(found)}" if found else "has none"
            raise ScatterError(f"{mine.__name__} needs one of {', '.join(KINDS)}; it {have}")
        return found[0]

    @property
    def guards(self) -> Sequence[str]:
        """The columns read that are compared with the table before it is changed."""
        return self.reads

    def of_batch(self, batch: Batch) -> Migration:
        """The migration for this batch file."""
        return self.of_file(batch.columns)

    def of_file(self, columns: Sequence[str]) -> Migration:  # noqa: ARG002
        """The migration for a batch file with these columns."""
        return self

    def __init__(self) -> None:
        if self.model is not None:
            options = self.model._meta  # noqa: SLF001  Django's documented Meta API
            self.table = self.table or options.db_table
            self.key = self.key or ",".join(pk_columns(self.model))
        self.key = self.key or "id"
        self.check_declaration()

    def check_declaration(self) -> None:
        """Mistakes in a declaration are found when it is registered, not by the millionth record."""
        who = type(self).__name__
        if not self.name:
            raise ScatterError(f"{who} has no name, which is also its Celery task's name")
        if not self.table:
            raise ScatterError(f"{who} names neither a table nor a model")
        for label in ("reads", "writes"):
            columns = getattr(self, label)
            if isinstance(columns, str) or not all(isinstance(c, str) for c in columns):
                raise ScatterError(f"{who}.{label} must be a list of column names")
            if len(set(columns)) != len(columns):
                raise ScatterError(f"{who}.{label} names a column twice")
        if self.kind in ("process", "process_batch") and not self.writes:
            raise ScatterError(f"{who}.writes is empty: it could change nothing")
        self.check_key(who)

    def check_key(self, who: str) -> None:
        for key in key_columns(self.key):
            if not key:
                raise ScatterError(f"{who}.key {self.key!r} has an empty column name")
            if key in self.writes:
                raise ScatterError(f"{who}.writes holds the key {key!r}, which must not change")


class Inverse(Migration):
    """What takes back the records of a migration that makes its changes itself: its task is the migration's with ".undo"
    behind the name, and nothing is compared with the table."""

    def __init__(self, forward: Migration) -> None:
        self.forward = forward
        self.name = forward.name + UNDO
        self.table, self.key = forward.table, forward.key
        self.reads, self.writes = forward.reads, forward.writes
        self.retry_on = forward.retry_on

    @property
    def kind(self) -> str:
        return self.forward.kind

    @property
    def has_inverse(self) -> bool:
        return False

    @property
    def guards(self) -> Sequence[str]:
        return ()

    def process_row(self, record: Record, cursor: Any) -> Skip | None:
        return self.forward.undo_row(record, cursor)

    def process_external(self, record: Record) -> Skip | None:
        return self.forward.undo_external(record)


_registered: dict[str, Migration] = {}

M = TypeVar("M", bound=type[Migration])


def register(cls: M) -> M:
    """Makes the class known to scatter_plan and to Celery workers, as a late-ack task of its name."""
    from django_scatter import keeper  # noqa: F401  its signals
    from django_scatter.tasks import make_task

    migration = cls()
    before = _registered.get(migration.name)
    if before is not None and type(before).__qualname__ != cls.__qualname__:
        raise ScatterError(
            f"migration {migration.name!r} is registered twice: "
            f"{type(before).__qualname__} and {cls.__qualname__}"
        )
    if not _registered:
        from django_scatter.restore import Restore
        from django_scatter.sqlfile import SqlFile

        make_task(Restore())  # whoever migrates can undo, and run a file of SQL
        make_task(SqlFile())
    _registered[migration.name] = migration
    if before is None:
        make_task(migration)
    if migration.has_inverse:
        inverse = Inverse(migration)
        if inverse.name not in _registered:
            make_task(inverse)
        _registered[inverse.name] = inverse
    return cls


def find_migration(name: str | None) -> Migration | None:
    return _registered.get(name or "")
