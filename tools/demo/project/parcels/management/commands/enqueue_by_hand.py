# SPDX-License-Identifier: Apache-2.0
"""A command that a team might have had before Scatter: it writes a batch to S3 and sends a Celery task, with nothing but
boto3 and Celery. The message reaches celeryc and Python workers like those of scatter_plan; the worker makes the missing
plan and batch rows from the file's header.

    manage.py enqueue_by_hand --bucket scatter --plan spring-cleaning --first 1 --last 5000
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from argparse import ArgumentParser
from typing import Any

import boto3
import zstandard
from celery import current_app
from django.core.management.base import BaseCommand

from parcels.models import Parcel


class Command(BaseCommand):
    help = "One batch of parcels to S3 and one message to the queue, without scatter_plan."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--bucket", required=True)
        parser.add_argument("--plan", required=True)
        parser.add_argument("--first", type=int, required=True)
        parser.add_argument("--last", type=int, required=True)
        parser.add_argument("--queue", default="parcels")

    def handle(self, *args: Any, **options: Any) -> None:
        plan, key = options["plan"], f"{options['plan']}/batch-000001.ndjson.zst"
        rows = list(
            Parcel.objects.filter(id__gte=options["first"], id__lte=options["last"])
            .order_by("id")
            .values_list("id", "phone")
        )
        data = batch_file(plan, rows)
        s3 = boto3.client("s3", endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))
        s3.put_object(Bucket=options["bucket"], Key=key, Body=data)
        message = {
            "plan": plan,
            "batch": 1,
            "source": f"s3://{options['bucket']}/{key}",
            "database": "default",
            "sha256": hashlib.sha256(data).hexdigest(),
            "params": {},
        }
        # The id says which batch it is, so that sending it twice does no harm.
        task_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"scatter:{plan}:1"))
        current_app.send_task(
            "phones.vn_renumber", kwargs=message, task_id=task_id, queue=options["queue"]
        )
        self.stdout.write(f"{len(rows)} parcels in s3://{options['bucket']}/{key}, task {task_id}")


def batch_file(plan: str, rows: list[tuple[int, str | None]]) -> bytes:
    """zstd over lines of JSON: a header, then one array per record."""
    header = {
        "format": 1,
        "plan": plan,
        "batch": 1,
        "migration": "phones.vn_renumber",
        "table": "parcel",
        "key": "id",
        "columns": ["phone"],
        "count": len(rows),
        "total_batches": 1,
    }
    lines = [json.dumps(value, ensure_ascii=False) for value in [header, *rows]]
    return zstandard.ZstdCompressor().compress(("\n".join(lines) + "\n").encode())
