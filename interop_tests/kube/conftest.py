# SPDX-License-Identifier: Apache-2.0
"""Every test here that takes `scene` runs against the stub, and with the mark `kube` (`make test-kube`) against a real
API server as well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .cluster import Cluster
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
