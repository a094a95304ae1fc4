# SPDX-License-Identifier: Apache-2.0
"""manage.py scatter_sweep: sends what a lost Redis has lost. For a cron job where no worker does it by itself."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS

from django_scatter import conf, operator
from django_scatter.errors import ScatterError


class Command(BaseCommand):
    help = (
        "Send the messages of batches that no message carries any more, and callbacks that are due."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--after", type=int, metavar="SECONDS", help="only what was sent so long ago (60)"
        )
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="alias in DATABASES")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            conf.database_url(options["database"])
            found = operator.sweep(options["database"], options["after"])
        except ScatterError as e:
            raise CommandError(str(e)) from e
        self.stdout.write(
            f"{found['sent']} messages were sent again ({found['looked_at']} batches were looked at)"
        )
