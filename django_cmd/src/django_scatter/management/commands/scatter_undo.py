# SPDX-License-Identifier: Apache-2.0
"""manage.py scatter_undo PLAN: a plan that writes the old values of another one back."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django_scatter import planner, undo
from django_scatter.migration import find_migration
from django_scatter.plancommand import ChildCommand
from django_scatter.status import read_status


class Command(ChildCommand):
    help = (
        "Write the old values of a plan back, where the row still holds what the plan gave it. "
        "Rows that were changed since are left alone and listed as stale."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--batch", type=int, metavar="N", help="only this batch")

    def run_on(self, plan: str, options: dict[str, Any]) -> None:
        database = options["database"]
        found = find_migration(read_status(database, plan, max_failures=0).migration)
        more = {"batch": options["batch"], **self.child_options(options)}
        flags = ["dry-run"] if options["dry_run"] else []
        rows: Iterator[bytes] | None = None
        if found is not None and found.has_inverse:
            flags.append("inverse")  # its records are those of the old files
        elif found is not None:
            records = undo.of_plan(database, plan, found, options["batch"])
            more["columns"] = ",".join(records.columns)
            flags.append("stdin")
            rows = records.stream()
        argv = planner.child_arguments("undo", plan, database, more, flags)
        self.say(planner.run(argv, database, rows))
