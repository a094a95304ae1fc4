# SPDX-License-Identifier: Apache-2.0
"""manage.py scatter_report PLAN: write the report of a plan into the store."""

from __future__ import annotations

from typing import Any

from django_scatter import planner
from django_scatter.plancommand import PlanCommand


class Command(PlanCommand):
    help = "Write a plan's report (manifest, CSV parts, one page) into its store, in whatever state it is."

    def run_on(self, plan: str, options: dict[str, Any]) -> None:
        argv = planner.plan_arguments("report", plan, options["database"], {})
        found = planner.run(argv, options["database"])
        self.stdout.write(f"{found['report']}/report.html")
        self.stdout.write(f"sha256 of its manifest.json: {found['sha256']}")
