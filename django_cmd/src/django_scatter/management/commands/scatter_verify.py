# SPDX-License-Identifier: Apache-2.0
"""manage.py scatter_verify PLAN: does the table hold what the plan says it did?"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from django_scatter import planner
from django_scatter.plancommand import PlanCommand

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
        more = {"check": options["check"], "sample": options["sample"], "as": options["child"]}
        flags = [f.replace("_", "-") for f in ("no_residue", "top_up") if options[f]]
        argv = planner.child_arguments("verify", plan, database, more, flags)
        found = planner.run(argv, database, good=(0, 3))
        for part in (found["residue"] or {}, found["check"] or {}):
            for name, what in FINDINGS.items():
                if name in part:
                    keys = ", ".join(part[f"{name}_keys"])
                    self.stdout.write(f"{part[name]:,} {what}" + (f": {keys}" if keys else ""))
        if found["top_up"]:
            self.stdout.write(f"late arrivals: plan {found['top_up']}")
        if not found["ok"]:
            raise CommandError(f"plan {plan} does not hold", returncode=3)
        self.stdout.write(f"plan {plan} holds")
