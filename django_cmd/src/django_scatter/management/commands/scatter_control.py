# SPDX-License-Identifier: Apache-2.0
"""manage.py scatter_control VERB PLAN: pause, resume, cancel, drain or retune a plan; or the governor of a database."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS

from django_scatter import conf, operator
from django_scatter.errors import ScatterError


class Command(BaseCommand):
    help = (
        "pause, resume, cancel or drain PLAN, or set PLAN rate=N chunk_ms=N workers=N; every worker "
        "obeys within two seconds. governor [show|stop|start|set max_lag_s=N ...]: all plans of the database."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("verb", choices=(*operator.VERBS, "governor"))
        parser.add_argument("words", nargs="*", metavar="PLAN [NAME=VALUE]")
        parser.add_argument("--reason", help="why, for the status and the records")
        parser.add_argument("--format", choices=("text", "json"), default="text")
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="alias in DATABASES")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            found = self.act(options)
        except ScatterError as e:
            raise CommandError(str(e)) from e
        if options["format"] == "json":
            self.stdout.write(json.dumps(found))
            return
        for name, value in found.items():
            self.stdout.write(f"{name:<10} {value}")

    def act(self, options: dict[str, Any]) -> dict[str, Any]:
        verb, words, database = options["verb"], options["words"], options["database"]
        conf.database_url(database)  # refuses an unknown alias by name
        if verb == "governor":
            return operator.governor(words, database)
        if not words:
            raise ScatterError("which plan? scatter_status lists them")
        if len(words) > 1 and verb != "set":
            raise ScatterError(f"{verb} takes one plan, not {' '.join(words)}")
        return operator.control(verb, words[0], database, words[1:], options["reason"])
