# SPDX-License-Identifier: Apache-2.0
"""Tells whether chunks went by COPY: an event trigger counts the temporary tables that are made."""

from __future__ import annotations

from .parcels import Database


def count_copies(database: Database) -> None:
    database.run(
        "CREATE SEQUENCE copies",
        "CREATE FUNCTION public.note_copy() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM nextval('public.copies') FROM pg_event_trigger_ddl_commands() AS c "
        "WHERE c.schema_name = 'pg_temp'; END $$",
        "CREATE EVENT TRIGGER note_copy ON ddl_command_end WHEN TAG IN ('CREATE TABLE') "
        "EXECUTE FUNCTION public.note_copy()",
    )


def copies(database: Database) -> int:
    """A sequence counts also what was rolled back."""
    return int(
        database.query("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM copies")[0][0]
    )
