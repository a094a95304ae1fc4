# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL: the changes of a chunk in pieces, inside of the open transaction, so that a refusal takes back little.
celeryc/db/pg_pieces.c does the same, with the same text (schema/pieces.sql), which says how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import DatabaseError

from django_scatter.chunk import Row, Target
from django_scatter.schema import schema_text

if TYPE_CHECKING:
    from django_scatter.control_postgresql import PostgresControl

HINTED_COLUMNS = 8


class Refused(DatabaseError):
    """What the server said of one change; its transaction goes on."""

    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


def quote(name: str) -> str:
    return '"' + name.strip('"').replace('"', '""') + '"'


def array(values: Sequence[str | None]) -> str:
    quoted = (
        "NULL" if v is None else '"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for v in values
    )
    return "{" + ",".join(quoted) + "}"


def block_of(target: Target, types: Mapping[str, str]) -> str:
    """The DO statement for a target. Arrays: key's columns, old values, new ones, and whether those are set."""
    arrays = {f"k{i}": types[c] for i, c in enumerate(target.keys)}
    arrays |= {f"o{i}": "text" for i in range(len(target.reads))}
    arrays |= {f"n{i}": "text" for i in range(len(target.writes))}
    arrays |= {f"f{i}": "boolean" for i in range(len(target.writes))}
    sets = ", ".join(
        f"{quote(c)} = CASE WHEN v.f{i} THEN v.n{i}::{types[c]} ELSE t.{quote(c)} END"
        for i, c in enumerate(target.writes)
    )
    where = [f"t.{quote(c)} = v.k{i}" for i, c in enumerate(target.keys)]
    where += [
        f't.{quote(c)}::text COLLATE "C" IS NOT DISTINCT FROM v.o{i}'
        for i, c in enumerate(target.reads)
    ]
    tokens = {
        "arrays": "\n    ".join(
            f"{name} {kind}[] := current_setting('scatter.{name}');"
            for name, kind in arrays.items()
        ),
        "update": f"UPDATE {'.'.join(map(quote, target.table.split('.')))} AS t SET {sets} FROM unnest("
        # A subselect hides from the server how many there are: so it looks the rows up one by one, by the key's index.
        + ", ".join(f"(SELECT {name}[lo:hi])" for name in arrays)
        + f") WITH ORDINALITY AS v ({', '.join(arrays)}, i) WHERE {' AND '.join(where)}",
        "in_detail": place_of(target, r"substring(detail from '\)=\((.*)\)')"),
        "in_words": place_of(target, "substring(words from ': \"(.*)\"')"),
    }
    parts = schema_text("pieces.sql").split("@")
    text = "".join(tokens[part] if i % 2 else part for i, part in enumerate(parts))
    return "DO E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def place_of(target: Target, text: str) -> str:
    """Where the text that a failure quotes stands among the new values."""
    places = (
        f"array_position(n{i}[lo:hi], {text})"
        for i in range(min(len(target.writes), HINTED_COLUMNS))
    )
    return f"coalesce({', '.join(places)}, 0)"


@dataclass
class Pieces:
    """What became of the changes of one chunk. at: how many are done: written, refused (those, by number, in order) or
    stale."""

    at: int
    stale: set[int]
    refused: list[tuple[int, Refused]]


def write(control: PostgresControl, changed: Sequence[Row], size: int, most: int) -> Pieces:
    """In the open transaction, in pieces of so many; it ends early after `most` refusals, as after a quarter of the lease.
    Raises what is told of no change alone: the transaction is to be rolled back."""
    settings = {
        "size": str(size),
        "total": str(len(changed)),
        "most": str(most),
        "ms": str(control.lease_ms // 4),
        **values(control.target, changed),
    }
    asked = ", ".join(f"set_config('scatter.{name}', %s, true)" for name in settings)
    control.rows(f"SELECT {asked}", list(settings.values()))
    control.execute(control.pieces_sql)
    at, stale = control.rows(
        "SELECT current_setting('scatter.at'), current_setting('scatter.stale')"
    )[0]
    refused = control.rows(
        "SELECT * FROM unnest(current_setting('scatter.refused')::integer[], "
        "current_setting('scatter.states')::text[], current_setting('scatter.texts')::text[], "
        "current_setting('scatter.details')::text[])"
    )
    return Pieces(
        int(at),
        {int(i) - 1 for i in stale.split(",") if i},
        [(int(i) - 1, refusal(str(s), str(w), str(d))) for i, s, w, d in refused],
    )


def refusal(state: str, words: str, detail: str) -> Refused:
    first = words.partition("\n")[0]
    return Refused(state, f"{first}: {detail}" if detail else first)


def values(target: Target, changed: Sequence[Row]) -> dict[str, str]:
    n_keys = len(target.keys)
    found = {f"k{i}": array([r.old[i] for r in changed]) for i in range(n_keys)}
    for i in range(len(target.reads)):
        found[f"o{i}"] = array([r.old[n_keys + i] for r in changed])
    for i, name in enumerate(target.writes):
        found[f"n{i}"] = array([r.fresh.get(name) for r in changed])
        found[f"f{i}"] = array(["t" if name in r.fresh else "f" for r in changed])
    return found
