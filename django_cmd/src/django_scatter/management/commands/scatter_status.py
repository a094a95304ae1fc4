# SPDX-License-Identifier: Apache-2.0
"""manage.py scatter_status [PLAN]: what became of a plan, from the control tables."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS

from django_scatter import conf, report
from django_scatter.errors import ScatterError
from django_scatter.status import list_plans, read_status
from django_scatter.watch import watch


class Command(BaseCommand):
    help = (
        "Show a plan: counts and their sum, batches, workers, failures. Without PLAN: the newest."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("plan", nargs="?", metavar="PLAN")
        parser.add_argument("--watch", action="store_true", help="follow it to its end")
        parser.add_argument("--format", choices=("text", "json"), default="text")
        parser.add_argument("--failures", type=int, default=20, help="how many to show (20)")
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="alias in DATABASES")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.show(options)
        except ScatterError as e:
            raise CommandError(str(e)) from e

    def show(self, options: dict[str, Any]) -> None:
        database, plan = options["database"], options["plan"]
        conf.database_url(database)  # refuses an unknown alias by name
        as_json = options["format"] == "json"
        if plan is None:
            if options["watch"]:
                raise ScatterError("--watch needs the id of a plan; scatter_status lists them")
            plans = list_plans(database)
            self.stdout.write(
                json.dumps([p.as_dict() for p in plans], indent=2)
                if as_json
                else report.plans_text(plans)
            )
            return
        if options["watch"]:
            watch(database, plan, self.stderr)
        status = read_status(database, plan, max_failures=max(0, options["failures"]))
        self.stdout.write(
            json.dumps(status.as_dict(), indent=2) if as_json else report.full_text(status)
        )
