# SPDX-License-Identifier: Apache-2.0
"""manage.py scatter_redrive PLAN: a plan of the records that another one set aside."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django_scatter import planner
from django_scatter.plancommand import ChildCommand


class Command(ChildCommand):
    help = "Drive the records of a plan that were set aside once more, with their present values."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--class", dest="error_class", help="only this error class")
        parser.add_argument("--sqlstate", help="only this SQLSTATE, or its class of two characters")
        parser.add_argument(
            "--outcome",
            choices=("quarantined", "stale", "skipped", "failed"),
            help="only this outcome (quarantined and stale ones); failed: what failed batches have left",
        )
        parser.add_argument("--limit", type=int, metavar="N", help="the first N of them")

    def run_on(self, plan: str, options: dict[str, Any]) -> None:
        chosen = {
            "class": options["error_class"],
            "sqlstate": options["sqlstate"],
            "outcome": options["outcome"],
            "limit": options["limit"],
        }
        flags = ["dry-run"] if options["dry_run"] else []
        argv = planner.child_arguments(
            "redrive", plan, options["database"], chosen | self.child_options(options), flags
        )
        self.say(planner.run(argv, options["database"]))
