# SPDX-License-Identifier: Apache-2.0
"""Parcels for phones.vn_renumber of which a few are refused by the database, in three ways."""

from __future__ import annotations

from collections.abc import Sequence

from .parcels import Database

QUERY_TO = "SELECT id, phone FROM parcel WHERE id <= {n} ORDER BY id"

# Class and SQLSTATE of what is planted, by the old number's beginning.
CLASSES = {
    "0163 6": ("CheckViolation", "23514"),
    "0164 7": ("DivisionByZero", "22012"),
    "0165 8": ("UniqueViolation", "23505"),
}


def fill(database: Database, n: int, planted: int, classes: int = 3) -> None:
    """n parcels that are all to be changed; `planted` of each class are refused."""
    database.run(
        "CREATE TABLE parcel (id bigint PRIMARY KEY, phone text NOT NULL) "
        "WITH (autovacuum_enabled = off)",
        "INSERT INTO parcel SELECT i, '0162 ' || substr(lpad(i::text, 7, '0'), 1, 3) || ' ' || "
        f"substr(lpad(i::text, 7, '0'), 4) FROM generate_series(1, {n}) AS i",
    )
    step = n // planted if planted else 0
    for k, beginning in enumerate(list(CLASSES)[:classes]):
        if not planted:
            break
        database.run(
            f"UPDATE parcel SET phone = {numbered(beginning, f'id / {step}')} "
            f"WHERE id % {step} = {step * (k + 1) // 5}"
        )
    refuse(database)


def fill_anywhere(database: Database, n: int, counts: Sequence[int]) -> None:
    """The same with so many of each class, strewn over the table."""
    fill(database, n, 0)
    chosen = (
        "(SELECT id, row_number() OVER (ORDER BY id * 48271 % 1000003, id) AS place FROM parcel)"
    )
    first = 0
    for beginning, count in zip(CLASSES, counts):
        database.run(
            f"UPDATE parcel AS p SET phone = {numbered(beginning, 'c.place')} FROM {chosen} AS c "
            f"WHERE p.id = c.id AND c.place > {first} AND c.place <= {first + count}"
        )
        first += count
    refuse(database)


def numbered(beginning: str, number: str) -> str:
    """A phone number with this beginning, as SQL."""
    text = f"lpad(({number})::text, 6, '0')"
    return f"'{beginning}' || substr({text}, 1, 2) || ' ' || substr({text}, 3)"


def refuse(database: Database) -> None:
    """From now on the database refuses the new numbers of those that are planted."""
    database.run(
        "DROP INDEX IF EXISTS parcel_phone",
        "ALTER TABLE parcel DROP CONSTRAINT IF EXISTS no_six, DROP CONSTRAINT IF EXISTS no_seven",
        "CREATE UNIQUE INDEX parcel_phone ON parcel (phone)",
        "ALTER TABLE parcel ADD CONSTRAINT no_six CHECK (phone NOT LIKE '033 6%')",
        "ALTER TABLE parcel ADD CONSTRAINT no_seven "
        "CHECK (1 / (CASE WHEN phone LIKE '034 7%' THEN 0 ELSE 1 END) = 1)",
        "INSERT INTO parcel SELECT id + 10000000, '035 8' || substr(phone, 7) FROM parcel "
        "WHERE phone LIKE '0165 8%'",
        "VACUUM ANALYZE parcel",
    )


def mend(database: Database) -> None:
    """Nothing is refused any more: constraints are gone, and so are the rows that had the new numbers already."""
    database.run(
        "ALTER TABLE parcel DROP CONSTRAINT no_six, DROP CONSTRAINT no_seven",
        "DELETE FROM parcel WHERE id >= 10000000",
    )


def outcomes(database: Database, plan: str) -> dict[tuple[str, str], int]:
    return {
        (name, state): int(count)
        for name, state, count in database.query(
            "SELECT error_class, sqlstate, count(*) FROM scatter_outcome "
            f"WHERE plan = '{plan}' AND outcome = 'quarantined' GROUP BY 1, 2"
        )
    }
