# SPDX-License-Identifier: Apache-2.0
"""Every test here that takes `scene` runs against the stub, and with the mark `kube` (`make test-kube`) against a real
API server as well."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .cluster import Cluster
from .kubelet import permitted
from .stage import Stage
from .worlds import Scene, World


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


@pytest.fixture(scope="session", params=["stub", pytest.param("real", marks=pytest.mark.kube)])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    behind = request.getfixturevalue("cluster") if request.param == "real" else None
    made = World(tmp_path_factory.mktemp("world"), behind)
    yield made
    made.stop()


@pytest.fixture
def scene(world: World) -> Iterator[Scene]:
    made = world.scene()
    yield made
    made.close()
    world.front.plans.clear()


numbers = itertools.count(1)


def stages(cluster: Cluster, folder: Path) -> Iterator[Callable[..., Stage]]:
    assert permitted(), "containers need namespaces and mounts: run `make test-kube` as root"
    made: list[Stage] = []

    def make(**options: Any) -> Stage:
        number = next(numbers)
        made.append(Stage(cluster, f"stage{number}", folder / f"stage{number}", **options))
        return made[-1]

    yield make
    for stage in made:
        stage.stop()


@pytest.fixture
def make_stage(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    yield from stages(cluster, tmp_path)


@pytest.fixture(scope="module")
def make_shared_stage(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Stage]]:
    yield from stages(cluster, tmp_path_factory.mktemp("stages"))
