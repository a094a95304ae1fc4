# SPDX-License-Identifier: Apache-2.0
"""Worker pods come and go under load as Kubernetes does it: TERM to process 1, the grace period, KILL."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness.waiting import wait_until

from .stage import Stage

pytestmark = [pytest.mark.kube, pytest.mark.timeout(300)]


@pytest.mark.parametrize("worker", ["celeryc", "celery"])
def test_pods_that_are_taken_away_under_load_lose_nothing(
    make_stage: Callable[..., Stage], worker: str
) -> None:
    stage = make_stage(worker=worker)
    stage.set_replicas(3)
    stage.wait_running(3)
    stage.send(60, 0.3)
    wait_until(lambda: stage.done() > 3, "the load runs", 60)
    stage.set_replicas(1)
    stage.wait_running(1)
    stage.send(20, 0.3)
    stage.set_replicas(3)
    wait_until(lambda: stage.done() > 30, "half of it is done", 60)
    stage.set_replicas(1)
    stage.wait_done()
    stage.nothing_is_lost()
    stage.set_replicas(0)
    stage.wait_gone()
    assert stage.pods_killed() == []
    assert len(stage.kubelet.ended) == 5
    assert {code for _, code, _ in stage.kubelet.ended} == {0}


def test_a_pod_whose_grace_period_is_too_short_loses_nothing_of_late_tasks(
    make_stage: Callable[..., Stage],
) -> None:
    """KILL meets running tasks: those acked late (examples.sleep is) run again elsewhere."""
    stage = make_stage(grace_s=1)
    stage.wait_running(1)
    stage.send(2, 4.0)
    wait_until(lambda: stage.redis.client().llen("celery") == 0, "both run", 30)
    stage.set_replicas(0)
    stage.wait_gone()
    assert len(stage.pods_killed()) == 1
    stage.set_replicas(1)
    stage.wait_done()
    stage.nothing_is_lost()
