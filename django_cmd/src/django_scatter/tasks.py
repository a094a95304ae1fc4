# SPDX-License-Identifier: Apache-2.0
"""Migrations as Celery tasks: one late-ack task per migration, requeued when its worker is lost."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Reject
from django.db import DatabaseError, connections
from django.utils.connection import ConnectionDoesNotExist

from django_scatter import conf, outbox
from django_scatter.control import open_control
from django_scatter.errors import ScatterError
from django_scatter.failures import failure_of
from django_scatter.migration import Migration
from django_scatter.runtime import (
    Request,
    RetryLater,
    Stopping,
    retry_for,
    run_batch,
)

logger = logging.getLogger("django_scatter")


def batch_task_id(plan: str, batch: int) -> str:
    """The id of a batch's message: the same for every sender, in any language."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"scatter:{plan}:{batch}"))


def make_task(migration: Migration) -> None:
    """Registers the task with whatever Celery app finalizes; call once per migration."""

    def run(
        self: Task[Any, Any],
        plan: str,
        batch: int,
        source: str,
        database: str = "default",
        sha256: str | None = None,
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        return run_task(self, migration, plan, batch, source, database, sha256, params or {})

    run.__doc__ = type(migration).__doc__
    run.__name__ = "run"
    shared_task(
        bind=True,
        name=migration.name,
        acks_late=True,
        reject_on_worker_lost=True,
        max_retries=None,
    )(run)


def run_task(
    task: Task[Any, Any],
    migration: Migration,
    plan: str,
    batch: int,
    source: str,
    database: str,
    sha256: str | None,
    params: Mapping[str, str],
) -> dict[str, Any]:
    delivery = task.request.delivery_info or {}
    request = Request(
        plan=plan,
        batch=int(batch),
        source=source,
        database=database,
        sha256=sha256,
        params={str(k): str(v) for k, v in params.items()},
        queue=str(delivery.get("routing_key") or "celery"),
        worker=str(task.request.hostname or ""),
        owner=f"{os.getpid()}@{task.request.hostname}",
        redelivered=bool(delivery.get("redelivered")),
        retries=int(task.request.retries or 0),
    )
    try:
        connection = connections[database]
    except ConnectionDoesNotExist:
        raise ScatterError(f"DATABASES has no {database!r}, which the message names") from None
    control = open_control(connection, int(conf.lease_seconds() * 1000))
    try:
        ended = run_batch(migration, request, control)
    except RetryLater as e:
        logger.info("batch %s of %s again in %.1f s: %s", batch, plan, e.seconds, e)
        raise task.retry(countdown=e.seconds, exc=e.cause or e, max_retries=None) from e
    except Stopping as e:
        raise Reject("the worker stops", requeue=True) from e
    except DatabaseError as e:  # the claim itself failed: nothing is held
        failure = failure_of(e)
        if not failure.transient:
            raise
        later = retry_for(request, failure)
        raise task.retry(countdown=later.seconds, exc=e, max_retries=None) from e
    again = request.batch if ended.found_done and request.redelivered else None
    outbox.send_due(task.app, control, plan, again)
    if ended.failure is not None:
        raise ended.failure.error
    return {
        "plan": plan,
        "batch": request.batch,
        "state": ended.state,
        "counts": ended.counts,
        "duration": ended.duration_s,
        "records_per_second": round(ended.records_per_second, 1),
        "worker": request.worker,
    }
