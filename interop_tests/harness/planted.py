# SPDX-License-Identifier: Apache-2.0
"""Parcels for phones.vn_renumber of which a few are refused by the database, in three ways."""

from __future__ import annotations

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
            f"UPDATE parcel SET phone = '{beginning}' || substr(lpad((id / {step})::text, 6, '0'), 1, 2)"
            f" || ' ' || substr(lpad((id / {step})::text, 6, '0'), 3) "
            f"WHERE id % {step} = {step * (k + 1) // 5}"
        )
    database.run(
        "CREATE UNIQUE INDEX parcel_phone ON parcel (phone)",
        "ALTER TABLE parcel ADD CONSTRAINT no_six CHECK (phone NOT LIKE '033 6%')",
        "ALTER TABLE parcel ADD CONSTRAINT no_seven "
        "CHECK (1 / (CASE WHEN phone LIKE '034 7%' THEN 0 ELSE 1 END) = 1)",
        "INSERT INTO parcel SELECT id + 10000000, '035 8' || substr(phone, 7) FROM parcel "
        "WHERE phone LIKE '0165 8%'",
        "VACUUM ANALYZE parcel",
    )


def outcomes(database: Database, plan: str) -> dict[tuple[str, str], int]:
    return {
        (name, state): int(count)
        for name, state, count in database.query(
            "SELECT error_class, sqlstate, count(*) FROM scatter_outcome "
            f"WHERE plan = '{plan}' AND outcome = 'quarantined' GROUP BY 1, 2"
        )
    }
