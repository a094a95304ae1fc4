# SPDX-License-Identifier: Apache-2.0
"""Plans that are looked at, driven again and undone: the commands, and a table of which some rows refuse a change."""

from __future__ import annotations

import hashlib
import json
import subprocess
from typing import Any

from .parcels import MIGRATIONS, Database, scatter_plan
from .phones import renumbered, sample
from .site import Site
from .waiting import wait_until

BAD = 67  # every so many records is refused by the database


def command(site: Site, name: str, plan: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = [name, plan, "--database-url", site.database.url, "--store", site.store]
    if name in ("redrive", "undo", "verify"):
        words += ["-b", site.url, "-A", str(MIGRATIONS)]
    return scatter_plan(*words, *more, env=site.environment)


def made(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_child(
    site: Site, name: str, plan: str, child: str, *more: str, wait_s: float = 60
) -> dict[str, Any]:
    found = made(command(site, name, plan, "--as", child, "--format", "json", *more))
    assert found["plan"] == child
    wait_until(lambda: state(site, child) == "finished", f"{child} is finished", wait_s)
    return found


def state(site: Site, plan: str) -> str:
    return str(site.database.query(f"SELECT state FROM scatter_plan WHERE plan = '{plan}'")[0][0])


def plant(database: Database) -> None:
    """Changes of some records are refused from now on."""
    if database.postgres is None:
        database.run(
            f"CREATE TRIGGER planted BEFORE UPDATE OF phone ON parcel WHEN NEW.id % {BAD} = 0 "
            "BEGIN SELECT RAISE(ABORT, 'planted'); END"
        )
        return
    database.run(
        "CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN IF NEW.id % {BAD} = 0 THEN RAISE check_violation USING MESSAGE = 'planted'; END IF; "
        "RETURN NEW; END$$",
        "CREATE TRIGGER planted BEFORE UPDATE OF phone ON parcel FOR EACH ROW EXECUTE FUNCTION planted()",
    )


def unplant(database: Database) -> None:
    database.run("DROP TRIGGER planted" + (" ON parcel" if database.postgres is not None else ""))


def open_records(site: Site, plan: str) -> int:
    where = f"plan = '{plan}' AND resolved_by IS NULL"
    return int(site.database.query(f"SELECT count(*) FROM scatter_outcome WHERE {where}")[0][0])


def planted_ids(n: int) -> list[int]:
    return [i for i in range(BAD, n + 1, BAD) if renumbered(sample(i)) != sample(i)]


def table(database: Database, where: str = "1 = 1") -> str:
    rows = database.query(f"SELECT id, phone FROM parcel WHERE {where} ORDER BY id")
    return hashlib.sha256(repr([tuple(r) for r in rows]).encode()).hexdigest()
