# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from django_scatter import binary
from django_scatter.errors import ScatterError


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def places(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings_of: dict[str, Any]
) -> list[Path]:
    found = [tmp_path / "package", tmp_path / "scripts"]
    monkeypatch.setattr(binary, "places", lambda: iter(found))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return found


def test_first_place_wins(places: list[Path]) -> None:
    program(places[1] / "scatter-plan")
    first = program(places[0] / "scatter-plan")
    assert binary.find_binary() == str(first)


def test_path_comes_last(places: list[Path], tmp_path: Path) -> None:
    found = program(tmp_path / "path" / "scatter-plan")
    assert binary.find_binary() == str(found)
    second = program(places[1] / "scatter-plan")
    assert binary.find_binary() == str(second)


def test_a_file_that_cannot_be_run_is_no_program(places: list[Path]) -> None:
    program(places[0] / "scatter-plan").chmod(0o644)
    found = program(places[1] / "scatter-plan")
    assert binary.find_binary() == str(found)


def test_every_place_is_listed(places: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ScatterError) as e:
        binary.find_binary()
    for place in [*(p / "scatter-plan" for p in places), tmp_path / "path"]:
        assert str(place) in str(e.value)
    assert "BINARY" in str(e.value)


def test_setting_is_the_only_place(
    places: list[Path], settings_of: dict[str, Any], tmp_path: Path
) -> None:
    program(places[0] / "scatter-plan")
    settings_of["BINARY"] = tmp_path / "none"
    with pytest.raises(ScatterError, match="not a program"):
        binary.find_binary()


def test_real_places_hold_the_interpreters_scripts() -> None:
    import sysconfig

    assert Path(sysconfig.get_path("scripts")) in list(binary.places())
