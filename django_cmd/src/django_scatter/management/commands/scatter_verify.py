# SPDX-License-Identifier: Apache-2.0
"""manage.py scatter_verify PLAN: does the table hold what the plan says it did?"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from django_scatter import planner
from django_scatter.done import place_of
from django_scatter.migration import find_migration
from django_scatter.plancommand import PlanCommand
from django_scatter.status import query, read_status
from django_scatter.verify import Verification, has_check, keep

FINDINGS = {
    "residue": "records of the plan still match",
    "open": "records that were set aside or not reached match",
    "late": "records match that were not there when the plan was made",
    "failed": "records break the check",
}


class Command(PlanCommand):
    help = "Check what a plan has done: its query once more, and a condition. Fails when it does not hold."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--check", metavar="SQL", help="must hold for every record that was done"
        )
        parser.add_argument(
            "--sample", type=int, metavar="N", help="check N records instead of all"
        )
        parser.add_argument("--no-residue", action="store_true", help="do not run the query again")
        parser.add_argument(
            "--top-up", action="store_true", help="make a plan of the late arrivals"
        )
        parser.add_argument("--as", dest="child", metavar="ID", help="id of that plan")

    def run_on(self, plan: str, options: dict[str, Any]) -> None:
        database = options["database"]
        status = read_status(database, plan, max_failures=0)
        migration = find_migration(status.migration)
        function: dict[str, Any] | None = None
        if migration is not None and has_check(migration):
            place = place_of(database, plan, migration)
            function = Verification(*place, sample=options["sample"]).run()
        found = self.ask(plan, options, function is not None)
        if function is not None:
            found["function"] = function
            found["ok"] = found["ok"] and not function["failed"]
            keep(database, plan, {k: v for k, v in found.items() if k != "top_up"})
        self.tell(found)
        if not found["ok"]:
            raise CommandError(f"plan {plan} does not hold", returncode=3)
        self.stdout.write(f"plan {plan} holds")

    def ask(self, plan: str, options: dict[str, Any], checked: bool) -> dict[str, Any]:
        """scatter-plan; where it has nothing to do beside the check function, only that."""
        database = options["database"]
        [(has_query,)] = query(
            database, "SELECT query <> '' FROM scatter_plan WHERE plan = %s", (plan,)
        )
        residue = has_query and not options["no_residue"]
        if checked and not residue and not options["check"] and not options["top_up"]:
            return {"ok": True, "residue": None, "check": None, "top_up": None}
        more = {"check": options["check"], "sample": options["sample"], "as": options["child"]}
        flags = [f.replace("_", "-") for f in ("no_residue", "top_up") if options[f]]
        flags += ["judged-by-check"] if checked else []
        argv = planner.child_arguments("verify", plan, database, more, flags)
        return planner.run(argv, database, good=(0, 3))

    def tell(self, found: dict[str, Any]) -> None:
        for part in (found["residue"] or {}, found["check"] or {}):
            for name, what in FINDINGS.items():
                if name in part:
                    keys = ", ".join(part[f"{name}_keys"])
                    self.stdout.write(f"{part[name]:,} {what}" + (f": {keys}" if keys else ""))
        function = found.get("function")
        if function:
            self.stdout.write(
                f"{function['failed']:,} of {function['checked']:,} records checked by the migration "
                f"are not as they should be, {function['gone']:,} are gone"
            )
            for key, reason in zip(function["failed_keys"], function["reasons"]):
                self.stdout.write(f"  {key}: {reason}")
        if found["top_up"]:
            self.stdout.write(f"late arrivals: plan {found['top_up']}")
