# SPDX-License-Identifier: Apache-2.0
"""What the commands on a plan have in common: they run scatter-plan and say what it did."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS

from django_scatter import conf
from django_scatter.errors import ScatterError

CALLBACKS = {
    "planned": "when the plan is made",
    "batch": "after each batch",
    "paused": "when the plan is paused, by people or by a limit",
    "failed": "when the plan has failed",
    "finish": "after the last batch, whether the plan is finished or failed",
}


def add_callbacks(parser: ArgumentParser) -> None:
    for name, when in CALLBACKS.items():
        parser.add_argument(
            f"--on-{name}",
            metavar="SIGNATURE",
            help=f"callback {when}: a task's name, or a signature or canvas as JSON",
        )


def callback_options(options: dict[str, Any]) -> dict[str, Any]:
    return {f"on-{name}": options[f"on_{name}"] for name in CALLBACKS}


class PlanCommand(BaseCommand):
    """A command whose first argument is a plan."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("plan", metavar="PLAN")
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="alias in DATABASES")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            conf.database_url(options["database"])  # an unknown alias is refused by name
            self.run_on(options["plan"], options)
        except ScatterError as e:
            raise CommandError(str(e)) from e

    def run_on(self, plan: str, options: dict[str, Any]) -> None:
        raise NotImplementedError


class ChildCommand(PlanCommand):
    """One that makes a plan out of the other."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--as", dest="child", metavar="ID", help="id of the new plan")
        parser.add_argument("--batch-size", type=int, help="records per batch (10,000)")
        parser.add_argument("--queue", help="the workers' queue (the old plan's)")
        parser.add_argument("--dry-run", action="store_true", help="count, make nothing")
        add_callbacks(parser)

    def child_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "as": options["child"],
            "batch-size": options["batch_size"],
            "queue": options["queue"],
            **callback_options(options),
        }

    def say(self, found: dict[str, Any]) -> None:
        total = int(found["total"])
        if found.get("dry_run"):
            self.stdout.write(f"dry run: {total:,} records; nothing was written")
        elif total:
            self.stdout.write(
                f"plan {found['plan']}: {total:,} records, {found['batches']:,} batches, "
                f"{found['enqueued']:,} messages sent"
            )
        else:
            self.stdout.write("0 records: nothing to do")
        if found.get("note"):
            self.stdout.write(str(found["note"]))
