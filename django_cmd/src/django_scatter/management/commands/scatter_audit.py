# SPDX-License-Identifier: Apache-2.0
"""manage.py scatter_audit PLAN: is every record of the plan accounted for?"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from django_scatter import planner
from django_scatter.plancommand import PlanCommand

COUNTS = ("ok", "unchanged", "stale", "skipped", "quarantined", "remaining")


class Command(PlanCommand):
    help = "Check that a plan's records are all accounted for, in the control tables and the batch files."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--files", action="store_true", help="compare the batch files' digests and counts too"
        )

    def run_on(self, plan: str, options: dict[str, Any]) -> None:
        argv = ["audit", "--plan", plan, "--database", options["database"], "--format", "json"]
        if options["files"]:
            argv.append("--files")
        found = planner.run(argv, options["database"], good=(0, 3))
        sums = " + ".join(f"{found[name]:,} {name}" for name in COUNTS)
        self.stdout.write(f"plan {plan} ({found['state']}): {found['planned']:,} planned = {sums}")
        for v in found["violations"]:
            self.stdout.write(
                f"batch {v['batch']}: {v['violation']}: {v['found']:,}, expected {v['expected']:,}"
            )
        for text in found["files"]:
            self.stdout.write(text)
        if not found["holds"]:
            raise CommandError(f"plan {plan} does not add up", returncode=3)
        self.stdout.write("it adds up")
